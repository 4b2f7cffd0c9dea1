from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import store
from extract.datasets.synth import FAULTS, _clip_specs, render, split_of_classes
from extract.media.clip import Request
from extract.media.decode import decode
from extract.media.sampling import Sampling
from store import Status
from store.errors import InputError

SMALL = {"classes": 3, "clips": 4, "seconds": 0.6, "workers": 2}


def digests(directory):
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): sha256(p.read_bytes()).hexdigest() for p in files}


def look(path):
    return decode(
        Request(path=path, pick=Sampling(fps=8.0), short_sides=(96,), sample_rates=(16_000,))
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six classes of six clips, each of a group of its own; plain to see and to hear."""
    path = tmp_path_factory.mktemp("synth") / "plain"
    return decoded(render(path, classes=6, clips=6, groups=6, seconds=1.5, workers=2))


def decoded(manifest):
    table = store.read_manifest(manifest)
    decoded_clips = [look(table.root / path) for path in table.paths]
    return table, decoded_clips


def test_the_seed_decides_every_byte(tmp_path):
    render(tmp_path / "a", **SMALL)
    render(tmp_path / "b", **SMALL | {"workers": 1})
    render(tmp_path / "c", **SMALL, seed=1)
    same, changed = digests(tmp_path / "a"), digests(tmp_path / "c")
    assert same == digests(tmp_path / "b")
    assert len(same) == 13
    assert not set(same.values()) & set(changed.values())


def test_clips_are_what_the_manifest_says(clips):
    table, decoded_clips = clips
    assert Counter(table.column("label")) == {f"class_{k:03}": 6 for k in range(6)}
    for k, clip in enumerate(decoded_clips):
        assert (clip.visual.status, clip.audio.status) == (Status.OK, Status.OK)
        height, width = clip.visual.data[96].pixels.shape[1:3]
        sides = [int(table.column(name)[k]) for name in ("width", "height")]
        assert width / height == pytest.approx(sides[0] / sides[1], rel=0.02)
        seconds = float(table.column("seconds")[k])
        assert len(clip.audio.data[16_000].samples) / 16_000 == pytest.approx(seconds, abs=0.1)
        assert clip.visual.data[96].seconds[-1] == pytest.approx(seconds, abs=0.3)
        assert np.abs(clip.audio.data[16_000].samples).max() > 0.2
        assert np.ptp(clip.visual.data[96].pixels.astype(int), axis=0).max() > 60  # something moves


def test_splits_share_no_class():
    for classes in (1, 2, 3, 10, 20, 33):
        splits = split_of_classes(classes, np.random.default_rng(0))
        assert len(splits) == classes
        assert splits.count("train") >= 1
        assert classes < 10 or splits.count("test") >= 5
    assert Counter(split_of_classes(20, np.random.default_rng(0))) == {
        "train": 12,
        "val": 3,
        "test": 5,
    }


def test_labels_groups_and_splits_agree(clips):
    table, _ = clips
    split_of_label = set(zip(table.column("label"), table.column("split"), strict=True))
    assert len(split_of_label) == 6
    label_of_group = set(zip(table.column("group"), table.column("label"), strict=True))
    assert len(label_of_group) == len(set(table.column("group"))) == 36


def spread(visual, audio):
    """How far looks and sounds stray from their class, 0 (not at all) to 1 (anywhere)."""
    fractions = {"visual": visual, "audio": audio, "noise": 0.0, "silent": 0.0, "broken": 0.0}
    specs = _clip_specs(Path("x"), 4, 250, 5, 0, 3.0, fractions)
    points = np.array([[*spec.looks, *spec.sounds] for spec in specs]).reshape(4, 250, -1)
    gathered = np.abs(np.exp(2j * np.pi * points).mean(axis=1))
    return 1 - gathered[..., :6].mean(), 1 - gathered[..., 6:].mean()


def test_the_knobs_say_how_much_a_class_shows():
    assert spread(1.0, 1.0) == pytest.approx((0, 0), abs=1e-9)
    looks, sounds = spread(0.0, 1.0)
    assert looks > 0.9
    assert sounds < 1e-9
    looks, sounds = spread(1.0, 0.0)
    assert looks < 1e-9
    assert sounds > 0.9
    assert 0.2 < spread(0.5, 0.5)[0] < 0.6


def nearest_accuracy(features, labels):
    """Share of clips whose nearest other clip is of the same class."""
    features = np.array(features)
    distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.mean(np.array(labels)[distance.argmin(1)] == labels)


def spectrum(clip):
    samples = clip.audio.data[16_000].samples[:16_000]
    power = np.abs(np.fft.rfft(samples, 16_000)[: 160 * 40]) ** 2
    bands = np.log(power.reshape(-1, 40).sum(1) + 1)
    return (bands - bands.mean()) / bands.std()


def moving_colour(clip):
    pixels = clip.visual.data[96].pixels.astype(float)
    moved = np.abs(pixels - np.median(pixels, axis=0)).max(-1) > 50
    colour = pixels[moved].mean(0)
    return colour / np.linalg.norm(colour)


def test_picture_and_sound_tell_the_class_and_only_if_asked_to(clips, tmp_path):
    table, decoded_clips = clips
    labels = np.array(table.column("label"))
    assert nearest_accuracy([spectrum(c) for c in decoded_clips], labels) > 0.75
    assert nearest_accuracy([moving_colour(c) for c in decoded_clips], labels) > 0.75
    options = {"classes": 6, "clips": 6, "groups": 6, "seconds": 1.5, "workers": 2}
    _, hidden = decoded(render(tmp_path / "hidden", visual=0.0, audio=0.0, **options))
    assert nearest_accuracy([spectrum(c) for c in hidden], labels) < 0.5
    assert nearest_accuracy([moving_colour(c) for c in hidden], labels) < 0.5


def test_clips_of_a_group_look_alike_behind_the_class(tmp_path):
    table, decoded_clips = decoded(
        render(tmp_path / "g", classes=2, clips=6, groups=2, seconds=1.0, visual=0.0, workers=2)
    )
    grounds = [np.median(c.visual.data[96].pixels, axis=(0, 1, 2)) for c in decoded_clips]
    assert nearest_accuracy(grounds, np.array(table.column("group"))) == 1.0


def test_silent_and_broken_clips(tmp_path):
    table, decoded_clips = decoded(
        render(tmp_path / "b", classes=4, clips=5, seconds=0.6, silent=0.25, broken=0.3, workers=2)
    )
    assert table.column("sound").count("no") == 5
    assert sum(map(bool, table.column("fault"))) == 6
    assert set(table.column("fault")) == {"", *FAULTS}
    for clip, sounds, fault in zip(
        decoded_clips, table.column("sound"), table.column("fault"), strict=True
    ):
        assert clip.visual.status.failed == bool(fault)
        if not fault:
            assert clip.audio.status == (Status.OK if sounds == "yes" else Status.ABSENT)


def test_nothing_is_overwritten_and_nothing_is_left_half(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        render(tmp_path / "full", **SMALL)

    def interrupt(done, total, message=""):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tmp_path / "new", **SMALL, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    assert render(tmp_path / "empty", **SMALL | {"classes": 1, "clips": 1}).is_file()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"classes": 0}, "classes=0"),
        ({"clips": 0}, "clips=0"),
        ({"groups": 0}, "groups=0"),
        ({"visual": 1.5}, "visual=1.5"),
        ({"broken": -0.1}, "broken=-0.1"),
        ({"seconds": 0.0}, "seconds=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_values_out_of_bounds_are_said(tmp_path, wrong, says):
    with pytest.raises(InputError, match=says):
        render(tmp_path / "x", **wrong)
    assert not list(tmp_path.iterdir())
