"""The frame of a second is the same whichever frames are wanted beside it, whatever flags say."""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from extract.media import stretches
from extract.media.frames import SCALING
from extract.media.sampling import Sampling
from store import Status
from tests.extract import media_files as media
from tests.extract import odd_files as odd
from tests.extract.looking import EVERY_40_MS, look

CONTAINERS = {
    "mpeg4": ("mp4", "mkv", "avi", "ts"), "mpeg2video": ("mp4", "mkv", "ts", "mpg"),
    "libx264": ("mp4", "mkv", "ts", "flv", "avi"), "libx265": ("mp4", "mkv", "ts"),
    "libvpx": ("webm", "mkv"), "libvpx-vp9": ("webm", "mp4"),
}  # fmt: skip
FLAGS = ("honest", "all")
SPARSE = {
    "fps": Sampling(fps=3.0),
    "uniform": Sampling(frames=5),
    "keyframes": Sampling(sample="keyframes"),
    **{f"frame {k}": (lambda _, k=k: np.array([k])) for k in (0, 6, 19, 20, 33, 48)},
}


def full(path):
    """The frames of a plain decode of all packets, by second of the clip."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        shown = [(f.time, f) for f in container.decode(stream)]
        untimed = container.format.name == "avi"
        first = min(time for time, _ in shown)
        return [
            (
                k / float(stream.average_rate) if untimed else time - first,
                f.reformat(format="rgb24", interpolation=SCALING).to_ndarray(),
            )
            for k, (time, f) in enumerate(shown)
        ]


def check(path, monkeypatch, *, expected=None, picks=SPARSE):
    """Every sparse pick against the full decode; gives the share of packets that were decoded."""
    expected = expected or full(path)
    times = np.array([time for time, _ in expected])
    spans, plan = [], stretches.stretches

    def planned(*given):
        found = plan(*given)
        spans.append(tuple(found))  # the list itself is used up
        return found

    with monkeypatch.context() as patched:
        patched.setattr(stretches, "stretches", planned)
        for name, pick in {"every": None, **picks}.items():
            clip = look(path, rates=()) if pick is None else look(path, pick=pick, rates=())
            assert clip.visual.status == Status.OK, (name, clip.visual.detail)
            frames = clip.visual.data[4096]
            if pick is None:
                assert len(frames.pixels) == len(expected)
            for second, pixels in zip(frames.seconds, frames.pixels, strict=True):
                k = int(np.abs(times - second).argmin())
                assert abs(times[k] - second) < 2e-3, (name, second)
                np.testing.assert_array_equal(pixels, expected[k][1], err_msg=f"{name} {second}")
    assert spans
    return sum(stop - start + 1 for start, stop in (span for plan in spans for span in plan))


@pytest.fixture(scope="session")
def encoded(tmp_path_factory):
    """A file of each codec with honest flags, a key frame every 20."""
    folder, made = tmp_path_factory.mktemp("codecs"), {}

    def of(codec, container="mkv"):
        if (codec, container) not in made:
            if not odd.can_write(codec):
                pytest.skip(f"this FFmpeg cannot write {codec}")
            made[codec, container] = media.write(
                folder / f"{codec}.{container}", EVERY_40_MS, codec=codec, gop=20,
                pictures=media.noisy(50, 64, 48), size=(64, 48), tick=Fraction(1, 25),
                **odd.CODECS[codec],
            )  # fmt: skip
        return made[codec, container]

    return of


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize(
    ("codec", "container"), [(c, name) for c, names in CONTAINERS.items() for name in names]
)
def test_sparse_is_full(tmp_path, encoded, codec, container, flags, monkeypatch, record_property):
    path = encoded(codec, container)
    if flags == "all":
        path = odd.every_packet_flagged(path, tmp_path / f"x.{container}")
    decoded = check(path, monkeypatch)
    record_property("packets decoded", decoded)
    if container != "avi":  # its frames are counted
        # One full pass, and 9 picks of which most need less than a group of 20.
        assert decoded < 50 + 9 * 30


def test_key_frames_are_those_that_are(tmp_path, encoded):
    for codec in ("mpeg4", "libx264"):
        honest = encoded(codec, "mp4")
        lying = odd.every_packet_flagged(honest, tmp_path / f"{codec}.mp4")
        times, again = (
            look(path, pick=Sampling(sample="keyframes")).visual.data[4096].seconds
            for path in (honest, lying)
        )
        assert 3 <= len(times) < 20
        assert times.tolist() == again.tolist()


def test_an_mp4_without_a_table_of_key_frames(tmp_path, encoded, monkeypatch):
    path = shutil.copy(encoded("mpeg4", "mp4"), tmp_path / "x.mp4")
    with av.open(str(odd.without_sync_table(path))) as container:
        assert all(p.is_keyframe for p in container.demux(video=0) if p.size)
    assert check(path, monkeypatch) < 50 + 9 * 30


def test_a_codec_whose_headers_are_not_read_is_believed_only_if_the_frame_agrees(
    tmp_path, encoded, monkeypatch
):
    """As if nothing were known of MPEG-4: the front is decoded, where a flag turns out to lie."""
    from extract.media.headers import Headers

    monkeypatch.setattr(Headers, "read", property(lambda self: False))
    for which in (lambda k: k % 20 == 0, lambda k: True):
        check(odd.every_packet_flagged(encoded("mpeg4"), tmp_path / "x.mp4", which), monkeypatch)


def test_intra_refresh(tmp_path, monkeypatch):
    """One key frame; what is flagged later are pictures that build up."""
    params = {
        "x264-params": "intra-refresh=1:keyint=20:bframes=0:scenecut=0",
        "preset": "ultrafast",
    }
    path = media.write(
        tmp_path / "x.mp4", EVERY_40_MS, gop=20, options=params, pictures=media.noisy(50)
    )
    with av.open(str(path)) as container:
        assert sum(p.is_keyframe for p in container.demux(video=0) if p.size) > 1
    check(path, monkeypatch)


@pytest.mark.parametrize("flag_all", [False, True])
@pytest.mark.parametrize("container", ["mkv", "ts", "mp4"])
def test_two_fields_in_two_packets_are_one_frame(tmp_path, container, flag_all, monkeypatch):
    packets = odd.field_coded(tmp_path)
    (tmp_path / "x.h264").write_bytes(b"".join(packets))
    path = tmp_path / f"x.{container}"
    with av.open(str(tmp_path / "x.h264"), format="h264") as raw:
        odd.mux_fields(path, packets, flag_all=flag_all, extradata_from=raw.streams.video[0])
        shown = [
            f.reformat(format="rgb24", interpolation=SCALING).to_ndarray() for f in raw.decode()
        ]
    assert len(shown) == 50
    expected = [(0.04 * k, pixels) for k, pixels in enumerate(shown)]
    decoded = check(path, monkeypatch, expected=expected)
    assert decoded < 100 + 9 * 60
    assert [media.read_index(p) for p in look(path).visual.data[4096].pixels[:, :30]] == list(
        range(50)
    )
