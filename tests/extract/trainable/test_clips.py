"""Clips are the same however often they are decoded, and kept or not."""

import numpy as np
import pytest

from extract.media.samplers import Footage
from extract.pipeline.options import Options
from extract.trainable.clips import ClipStream
from extract.trainable.moments import Moments
from store import Status
from store.manifest import Manifest

LOOKS = (0.125, 0.375, 0.625, 0.875)
OPTIONS = Options(device="cpu", workers=1, sandbox="off")
WANTED = [(2, (0.125, 0.875)), (0, (0.375, 0.625)), (2, (0.625, 0.875)), (1, (0.125, 0.125))]


def stream(manifest: Manifest, **how):
    settings = {"looks": LOOKS, "short_side": 32, "sample_rate": 16_000, "options": OPTIONS}
    return ClipStream(manifest=manifest, **settings | how)


def told(found):
    return [(seen.row, seen.frames, seen.sound, seen.sha256) for seen in found]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a[0], a[3]) == (b[0], b[3])
        np.testing.assert_array_equal(a[1], b[1])
        np.testing.assert_array_equal(a[2], b[2])


def test_what_is_kept_is_what_is_decoded_again(clips):
    """All, none, or as many as memory holds: the same bytes."""
    whole = stream(clips)
    surveyed = list(whole.survey(range(4)))
    assert [seen.status for seen in surveyed] == [{"visual": Status.OK, "audio": Status.OK}] * 4
    assert len(whole.kept) == 4
    answer = told(whole.read(lambda: iter(WANTED)))
    assert len({frames.tobytes() for _, frames, _, _ in answer}) == 4
    for memory, kept in ((1, {0}), (whole.kept_bytes // 2, {1, 2, 3})):
        part = stream(clips, memory_bytes=memory)
        list(part.survey(range(4)))
        assert len(part.kept) in kept
        assert part.kept_bytes <= memory
        same(answer, told(part.read(lambda: iter(WANTED))))


def test_any_moment_may_be_asked_for_and_nothing_is_kept(clips):
    any_moment = stream(clips, looks=(), sample_rate=0)
    assert len(list(any_moment.survey(range(4)))) == 4
    assert not any_moment.kept
    (seen,) = any_moment.read(lambda: iter([(3, (0.01, 0.5, 0.99))]))
    assert seen.frames.shape[0] == 3
    assert seen.sound is None
    assert list(seen.status) == ["visual"]


def test_a_clip_that_fails_says_why(clips, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    from store import read_manifest

    (tmp_path / "m.csv").write_text("path\nbad.mp4\n")
    (seen,) = stream(read_manifest(tmp_path / "m.csv")).survey([0])
    assert seen.status["visual"].failed
    assert seen.frames is None
    assert seen.sound is None


def test_moments_are_shares_of_the_clip_each_with_a_frame_of_its_own():
    footage = Footage(
        seconds=np.arange(10) / 10,
        duration=1.0,
        key=np.ones(10, bool),
        changes=lambda: np.zeros(10),
    )
    assert Moments((0.0, 0.55, 0.56, 0.99))(footage).tolist() == [0, 5, 5, 9]


@pytest.mark.parametrize("shares", [(), (0.5, 0.4), (-0.1,), (1.0,)])
def test_moments_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="moments"):
        Moments(shares)
