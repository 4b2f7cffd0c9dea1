"""Frames that came as planes are those that PyAV makes RGB of, within 1."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import store
from extract.encoders._network import Way
from extract.media.clip import MATRICES, PLANAR, PlanarFrames, Request
from extract.media.decode import Decoder
from extract.media.sampling import Sampling
from extract.pipeline import pixels
from extract.pipeline.options import Options
from extract.pipeline.pixels import rgb
from extract.pipeline.run import run
from tests.extract.looking import every
from tests.fake_cuda import fake_card

HERE = Way(torch.device("cpu"))
MEDIA = os.environ.get("MICROSHOT_MEDIA", "")


def literal(luma, chroma, matrix, full):
    """RGB of one frame, pixel by pixel: chroma on even columns, and between two rows."""
    red, blue = MATRICES[matrix]
    height, width = luma.shape
    h, w = chroma.shape[1:]
    found = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            near, far = y // 2, y // 2 + (1 if y % 2 else -1)
            of_rows = 0.75 * chroma[:, near] + 0.25 * chroma[:, min(max(far, 0), h - 1)]
            right = min(x // 2 + x % 2, w - 1)
            u, v = (of_rows[:, x // 2] + of_rows[:, right]) / 2 - 128
            light = float(luma[y, x])
            if not full:
                light, u, v = (light - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
            r, b = light + 2 * (1 - red) * v, light + 2 * (1 - blue) * u
            found[y, x] = r, (light - red * r - blue * b) / (1 - red - blue), b
    return np.floor(found.clip(0, 255) + 0.5)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize(("matrix", "full"), [(5, False), (1, True), (9, False)])
def test_every_pixel_is_as_the_standard_has_it(height, width, matrix, full, monkeypatch):
    monkeypatch.setattr(pixels, "PIXELS_AT_ONCE", 2 * height * width)  # three frames: two parts
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, (3, height, width), np.uint8)
    shape = (3, 2, -(-height // 2), -(-width // 2))
    chroma = rng.integers(0, 256, shape, np.uint8)
    frames = PlanarFrames(
        luma=luma, chroma=chroma, seconds=np.arange(3.0), matrix=matrix, full=full
    )
    expected = np.stack([literal(*x, matrix, full) for x in zip(luma, chroma, strict=True)])
    np.testing.assert_array_equal(rgb(frames, slice(0, 9), HERE).numpy(), expected)
    np.testing.assert_array_equal(rgb(frames, np.array([2, 2, 0]), HERE), expected[[2, 2, 0]])
    turned = PlanarFrames(
        luma=luma, chroma=chroma, seconds=np.arange(3.0), matrix=matrix, full=full,
        mirrored=True, turns=3,
    )  # fmt: skip
    upright = np.rot90(expected[:, :, ::-1], -3, (1, 2))
    assert turned.size == upright.shape[1:3]
    np.testing.assert_array_equal(rgb(turned, slice(None), HERE).numpy(), upright)


def film(path, *, size=(64, 48), kind="yuv420p", matrix=2, span=0, turn=0):
    """Ten frames of blocks in colours that move."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (9, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    codec = "libx264" if kind.startswith("yuv") else "rawvideo"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = *size, kind
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, span
        for k in range(10):
            picture = np.ascontiguousarray(blocks[k : k + size[1], k : k + size[0]])
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
                format=kind, dst_colorspace=matrix if matrix != 2 else None,
                dst_color_range=span or None,
            )  # fmt: skip
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def both(path, side):
    """The frames as RGB, and the planes."""
    by = {}
    for decoder in ("pyav", PLANAR):
        asked = Request(path=path, pick=every, short_sides=(side,), decoder=decoder)
        by[decoder] = Decoder()(asked).visual
    told, planes = by["pyav"], by[PLANAR]
    assert (told.status, told.detail) == (planes.status, planes.detail)
    return told.data[side], planes.data[side]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a.mp4", {}),
        ("odd.mkv", {"size": (50, 38)}),
        ("hd.mp4", {"matrix": 1, "span": 1}),
        ("full.mp4", {"matrix": 1, "span": 2}),
        ("old.mp4", {"kind": "yuvj420p", "span": 2}),
        ("finer.mp4", {"kind": "yuv444p"}),
        ("grey.avi", {"kind": "gray"}),
    ],
)
def test_what_pyav_makes_of_the_planes_comes_out(name, more, tmp_path):
    told, planes = both(film(tmp_path / name, **more), 48)
    assert planes.full == (more.get("span") == 2)
    assert np.array_equal(told.seconds, planes.seconds)
    assert told.size == planes.size
    assert planes.nbytes <= 0.55 * told.nbytes
    off = np.abs(rgb(planes, slice(None), HERE).numpy().astype(int) - told.pixels)
    if more.get("kind") == "yuv444p":  # whose chroma is finer than what is handed over
        assert off.mean() < 15
    else:
        assert off.max() <= 1, (off.max(), off.mean())


def test_frames_that_are_scaled_keep_what_is_not_finer_than_chroma(tmp_path):
    told, planes = both(film(tmp_path / "a.mp4"), 24)
    assert told.size == planes.size == (24, 32)
    off = np.abs(rgb(planes, slice(None), HERE).numpy().astype(int) - told.pixels)
    assert off.mean() < 15  # blocks in colours of chance, eight pixels wide


@pytest.mark.skipif(not MEDIA, reason="needs MICROSHOT_MEDIA")
def test_a_picture_that_lies_on_its_side_is_put_upright():
    path = Path(MEDIA, "torture/derived/d23_rotated_90_with_sound.mp4")
    told, planes = both(path, 256)
    assert planes.turns
    off = np.abs(rgb(planes, slice(0, 5), HERE).numpy().astype(int) - told.pixels[:5])
    assert off.max() <= 1


def test_a_run_with_planes_makes_a_feature_of_its_own_with_nearly_the_same_rows(tmp_path):
    film(tmp_path / "a.mp4", size=(64, 48))
    (tmp_path / "m.csv").write_text("path\na.mp4\n")
    for decoder in ("pyav", PLANAR):
        run(
            tmp_path / "m.csv", tmp_path / "s", visual=["mobilenetv2:untrained"],
            sampling=Sampling(fps=5.0), options=Options(workers=1, decoder=decoder),
        )  # fmt: skip
    fs = store.open(tmp_path / "s")
    by = {fs[name].spec.identity["sampling"]["decoder"]: fs[name] for name in fs.features}
    assert set(by) == {"pyav", PLANAR}
    rows = [torch.from_numpy(by[d].read(by[d].clip_ids)[0]).float() for d in ("pyav", PLANAR)]
    assert torch.cosine_similarity(*rows).min() > 0.9999


def test_planes_go_to_a_card_without_waiting_and_are_half_the_bytes():
    chroma = np.zeros((4, 2, 24, 32), np.uint8)
    frames = PlanarFrames(
        luma=np.zeros((4, 48, 64), np.uint8), chroma=chroma, seconds=np.arange(4.0)
    )
    with fake_card() as card:
        given = rgb(frames, slice(None), Way(torch.device("cuda", 0)))
        assert given.device.type == "cuda"
        assert card.bytes("cuda") == frames.nbytes == 4 * 48 * 64 * 3 // 2
        assert card.waits == []
        assert card.questions == []
