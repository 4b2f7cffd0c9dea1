"""What is planned is what a run then does, and planning leaves nothing behind."""

import json
from contextlib import contextmanager

import pytest
import torch

import store
from extract.media.sampling import Sampling
from extract.pipeline.checks import Sample
from extract.pipeline.options import Options
from extract.pipeline.plan import _clock, _Trial, plan
from extract.pipeline.status import status
from extract.pipeline.unit_encoder import UnitEncoder, feature_spec
from store.errors import InputError, NotAStore
from tests.extract import media_files as media
from tests.extract.fakes import Frames, Whole, Windows, quick

CLIPS = 12


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Clips of 1 s, the second without sound, and two files that are no clips."""
    root = tmp_path_factory.mktemp("clips")
    for k in range(CLIPS - 2):
        sound = None if k == 1 else media.tone(1.0)
        media.write(root / f"{k:02}.mp4", range(0, 1000, 40), sound=sound)
    (root / "10.mp4").write_bytes(b"no clip")
    (root / "11.mp4").write_bytes(b"")
    (root / "m.csv").write_text("path\n" + "".join(f"{k:02}.mp4\n" for k in range(CLIPS)))
    return root / "m.csv"


def planned(source, directory, *, clips=CLIPS, seed=0, **options):
    return plan(
        source,
        directory,
        visual=[Frames()],
        audio=[Windows()],
        sampling=Sampling(fps=4.0),
        options=Options(workers=2, device="cpu", max_failures=1.0, **options),
        sample=Sample(clips=clips, seed=seed),
    )


def test_a_plan_of_all_clips_is_what_the_run_does(source, tmp_path):
    forecast = planned(source, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert (forecast.clips, forecast.pending, forecast.sampled) == (CLIPS, CLIPS, CLIPS)
    assert forecast.statuses == {"ok": 10, "unreadable": 2}
    assert forecast.sandbox is not None
    assert "rlimits" in forecast.to_dict()["sandbox"]["layers"]
    assert forecast.decoders == {"pyav (few frames)": 10} or sum(forecast.decoders.values()) == 10
    assert forecast.clips_per_second > 0
    assert forecast.hours_low <= forecast.hours <= forecast.hours_high
    assert set(forecast.examples) == {"unreadable"}
    assert forecast.bottleneck in {"decode", "encoder"}
    quick(source, tmp_path / "s", audio=[Windows()], clips_per_unit=64, max_failures=1.0)
    fs = store.open(tmp_path / "s")
    for feature in forecast.features:
        values, _ = fs[feature.feature].read(fs[feature.feature].clip_ids)
        assert feature.rows == len(values)
    on_disk = sum(p.stat().st_size for p in (tmp_path / "s" / "data.zarr").rglob("*"))
    assert forecast.bytes == pytest.approx(on_disk, rel=0.1)


def test_only_what_is_left_is_planned(source, tmp_path):
    quick(source, tmp_path / "s", max_failures=1.0)
    before = sorted(tmp_path.rglob("*"))
    forecast = planned(source, tmp_path / "s")
    assert sorted(tmp_path.rglob("*")) == before
    assert [feature.pending for feature in forecast.features] == [0, CLIPS]
    quick(source, tmp_path / "s", audio=[Windows()], max_failures=1.0)
    nothing = planned(source, tmp_path / "s")
    assert (nothing.pending, nothing.sampled, nothing.hours) == (0, 0, 0.0)
    assert nothing.bottleneck == "nothing to do"
    again = planned(source, tmp_path / "s", retry=("unreadable",))
    assert [feature.pending for feature in again.features] == [2, 2]


def test_a_sample_is_drawn_by_seed(source, tmp_path):
    drawn = [planned(source, tmp_path / "s", clips=4, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert all(sample.sampled == 4 for sample in drawn)
    assert drawn[0].statuses == drawn[1].statuses
    assert len({json.dumps([sample.statuses, sample.examples]) for sample in drawn}) > 1


def test_failures_in_the_sample_are_a_finding(source, tmp_path):
    forecast = plan(
        source, tmp_path / "s", visual=[Frames()], options=Options(workers=1, device="cpu"),
    )  # fmt: skip
    assert len(forecast.findings) == 1
    assert "2 of 12" in forecast.findings[0]
    json.dumps(forecast.to_dict())


def test_more_networks_cost_more(source, tmp_path, monkeypatch):
    """By the seconds that each network is said to take: a clock would judge the machine."""
    charged = {"fake-frames": 0.001, "slow": 5.0}

    @contextmanager
    def clock(trial):
        yield
        trial.seconds += charged.get(trial.encoder.slug, 0.0)
        trial.cpu_seconds += charged.get(trial.encoder.slug, 0.0)

    monkeypatch.setattr("extract.pipeline.plan._clock", clock)
    quick = planned(source, tmp_path / "s")
    slow = plan(
        source,
        tmp_path / "s",
        visual=[Frames(), Slow()],
        audio=[Whole()],
        options=Options(workers=2, device="cpu", max_failures=1.0),
    )
    assert slow.encoder_seconds_per_clip > 1000 * quick.encoder_seconds_per_clip > 0
    assert slow.bottleneck == "encoder"


@pytest.mark.parametrize(("device", "waits"), [("cuda:0", 1), ("cpu", 0)])
def test_a_network_on_a_card_is_timed_to_the_end_of_its_work(device, waits, monkeypatch):
    """The host has only told the card what to do when `put` returns."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    encoder = Frames()
    encoder.device = torch.device(device)
    spec, unit = feature_spec(encoder, Sampling(fps=1.0)), UnitEncoder(encoder, batch_size=1)
    trial = _Trial(encoder, spec, set(), unit)
    with _clock(trial):
        assert not waited
    assert waited == [torch.device(device)] * waits
    assert trial.seconds > 0


class Slow(Frames):
    slug = "slow"

    def __init__(self):
        super().__init__()
        self.identity = {"network": "slow"}


def test_what_cannot_be_planned(source, tmp_path):
    with pytest.raises(InputError, match="sample of 0 clips"):
        planned(source, tmp_path / "s", clips=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(NotAStore, match=r"thesis\.tex"):
        planned(source, tmp_path / "other")


def test_status_counts_what_is_there(source, tmp_path):
    with pytest.raises(NotAStore):
        status(source, tmp_path / "s")
    short = source.with_name("short.csv")
    short.write_text("path\n" + "".join(f"{k:02}.mp4\n" for k in (0, 1, 10)))
    quick(short, tmp_path / "s", audio=[Windows()], max_failures=1.0)
    sight, sound = sorted(status(source, tmp_path / "s").features, key=lambda f: f.modality)[::-1]
    assert (sight.committed, sight.pending) == (3, CLIPS - 3)
    assert sight.counts == {"ok": 2, "unreadable": 1}
    assert sound.counts == {"ok": 1, "absent": 1, "unreadable": 1}
    assert sight.failed == sound.failed == {"unreadable": 1}
    findings = status(source, tmp_path / "s").findings
    assert len(findings) == 4
    assert "--retry unreadable" in findings[-1]
    ok = source.with_name("ok.csv")
    ok.write_text("path\n00.mp4\n")
    assert status(ok, tmp_path / "s").findings == []
