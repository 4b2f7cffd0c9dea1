"""Pictures of clips: the middle of each, small, and none of what cannot be seen."""

import io

import av
import numpy as np
import pytest

from extract.media.thumbnails import SIDE, Segment, jpeg, thumbnails
from tests.extract.media_files import read_index, tone, write


def opened(data):
    with av.open(io.BytesIO(data)) as file:
        (frame,) = file.decode(video=0)
        return frame.to_ndarray(format="rgb24")


def test_the_middle_of_each_clip_or_nothing(tmp_path):
    write(tmp_path / "clip.mp4", range(0, 2000, 100), size=(256, 192))
    write(tmp_path / "sound.wav", sound=tone(1.0), audio_codec="pcm_s16le")
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 4096)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.mp4").symlink_to(tmp_path / "clip.mp4")
    seen = []
    images = thumbnails(
        [
            Segment(tmp_path, "clip.mp4"),
            Segment(tmp_path, "broken.mp4"),
            Segment(tmp_path, "clip.mp4", 0.0, 0.5),
            Segment(tmp_path, "sound.wav"),
            Segment(tmp_path / "inside", "link.mp4"),  # leads out of the folder
            Segment(tmp_path, "none.mp4"),
        ],
        lambda done, of: seen.append((done, of)),
    )
    assert [image is None for image in images] == [False, True, False, True, True, True]
    whole, piece = opened(images[0]), opened(images[2])
    assert whole.shape == (SIDE, SIDE * 4 // 3, 3)
    assert read_index(whole) in (9, 10)
    assert read_index(piece) in (2, 3)
    assert seen[-1] == (6, 6)
    assert thumbnails([]) == []


@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
def test_a_jpeg_shows_the_picture(size):
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, : size[1] // 2] = (200, 40, 40)
    shown = opened(jpeg(pixels)).astype(int)
    assert shown.shape == (size[0] // 2 * 2, size[1] // 2 * 2, 3)
    left, right = shown[:, :40].mean((0, 1)), shown[:, -40:].mean((0, 1))
    assert np.abs(left - (200, 40, 40)).max() < 8
    assert right.max() < 8
