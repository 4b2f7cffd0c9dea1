"""The frames of a clip by torchcodec (extra `torchcodec`): FFmpeg of the system, or NVDEC.

It is asked for by name only (docs/decoding.md says what was measured). It turns and mirrors frames
itself; what it gives is doubted all the same (`doubted.py`), and frames are scaled and made square
here, as PyAV's are. It brings torch along, so only decode processes import it: before they are
confined, with more room for memory, and without a sandbox where a card decodes.

Shapes: H, W = pixels.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from extract.media import doubted
from extract.media.clip import NVDEC, TORCHCODEC
from extract.media.doubted import Unfit
from extract.media.frames import (
    HDR,
    SCALING,
    Pictures,
    Plan,
    Scaler,
    orientation,
    pixel_aspect,
    turned,
)
from extract.media.packets import Media
from extract.media.track import Track
from extract.processes import child
from store.errors import ConfigError

DEVICES = {TORCHCODEC: "cpu", NVDEC: "cuda"}
TORCH_BYTES = 5 << 30  # of addresses that torch built for CUDA takes, 4.7 GiB measured
RESIDENT_BYTES = 1 << 30  # of them in use, .9 GiB measured
AT_ONCE_BYTES = 1 << 27  # of frames in full size


def check(decoder: str, sandbox: str) -> None:
    """Nothing, if the decoder may be asked for in this way.

    Raises:
        ConfigError: it is torchcodec, which is not installed; or a card is to decode in a sandbox.
    """
    if decoder not in DEVICES:
        return
    if find_spec("torchcodec") is None:
        raise ConfigError(
            "torchcodec is not installed; install it with `pip install 'microshot[torchcodec]'`, "
            "or leave --decoder out"
        )
    if decoder == NVDEC and sandbox != "off":
        raise ConfigError(
            f"--decoder {NVDEC} needs --sandbox off, as a confined process opens no card: for "
            f"clips that you trust; else take --decoder {TORCHCODEC}"
        )


def not_for(track: Track, plan: Plan) -> str:
    """The reason why not torchcodec, or nothing."""
    reasons = {
        "no torchcodec here": find_spec("torchcodec") is None,
        "the kind of pixels": track.stream.codec_context.pix_fmt not in doubted.FORMATS,
        **doubted.reasons(track, plan),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def pictures(
    media: Media, track: Track, plan: Plan, short_sides: tuple[int, ...], first: Any, device: str
) -> Pictures:
    """The wanted frames on `cpu` or by `cuda`, held against their times and PyAV's first frame.

    Raises:
        Unfit: it does not load, it raised, or what it gave is not what is in the file.
        Failure: REFUSED, the frames take too much memory.
    """
    if first is None:
        raise Unfit("the first frame does not decode")
    way = orientation(first)
    if first.color_trc in HDR:
        raise Unfit("HDR")
    if way[1] % 2 and pixel_aspect(track) != 1:
        raise Unfit("turned, and pixels not square")
    whole = Scaler(track, short_sides)(first)
    expected = {side: turned(_rgb(picture), way) for side, picture in whole.pixels.items()}
    # The sizes are known: all frames get those of the first.
    full = turned(np.empty((first.height, first.width, 3), np.uint8), way).shape
    given: dict[int, list[UInt8[np.ndarray, "H W 3"]]] = {side: [] for side in short_sides}
    seconds: list[float] = []
    child.risk("torchcodec")
    try:
        for frame, second in _read(media, track, plan, full, device):
            seconds.append(second)
            for side, like in expected.items():
                given[side].append(_scaled(frame, like.shape))
    finally:
        child.risk("")
    if not seconds:
        raise Unfit("torchcodec: no frame")
    for side, like in expected.items():
        doubted.check(track, plan, like, np.stack(given[side]), np.array(seconds), "torchcodec")
    scaler = Scaler(track, short_sides)
    return Pictures(
        frames={
            timestamp: {side: given[side][k] for side in short_sides}
            for k, timestamp in enumerate(plan.timestamps)
        },
        decoder=f"torchcodec ({device})",
        note=scaler.cropped,
        damage=plan.damage,
    )


def _rgb(picture: Any) -> UInt8[np.ndarray, "_ _ 3"]:
    assert isinstance(picture, np.ndarray)
    return picture


def _read(
    media: Media, track: Track, plan: Plan, shape: tuple[int, ...], device: str
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], float]]:
    """Each wanted frame in full size, upright, and its time stamp in seconds."""
    try:
        decoder = _decoders()(
            str(media.file.path),
            stream_index=track.stream.index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device=_device(device),
        )
        at = {timestamp: k for k, timestamp in enumerate(plan.shown.timestamps)}
        wanted = [at[timestamp] for timestamp in plan.timestamps]
        many = max(1, AT_ONCE_BYTES // int(np.prod(shape)))
        for start in range(0, len(wanted), many):
            batch = decoder.get_frames_at(wanted[start : start + many])
            pixels = batch.data.cpu().numpy()
            _same_shape(pixels, shape)
            yield from zip(pixels, batch.pts_seconds.tolist(), strict=True)
    except (Unfit, MemoryError):
        raise
    except Exception as error:  # its errors have no common base
        raise doubted.raised("torchcodec", error) from None


def _same_shape(pixels: UInt8[np.ndarray, "..."], shape: tuple[int, ...]) -> None:
    if pixels.shape[1:] != shape:
        raise Unfit(f"torchcodec: shape {pixels.shape}")


def _decoders() -> Any:
    """The class of its video decoders.

    Raises:
        Unfit: it does not load.
    """
    library = loaded()
    if isinstance(library, str):
        raise Unfit(library)
    return library


@cache
def loaded() -> Any:
    """The class of its video decoders, or why there is none; tried once a process, and before it is
    confined: torch looks for a place to write while it is loaded.
    """
    try:
        import torch
        from torchcodec.decoders import VideoDecoder
    except Exception as error:  # RuntimeError where FFmpeg's libraries are not found
        return f"torchcodec does not load: {type(error).__name__}"
    torch.set_num_threads(1)
    torch.ones(64).to(torch.uint8)  # it reads of what kind the processor is
    return VideoDecoder


def _device(device: str) -> str:
    """The device.

    Raises:
        Unfit: there is no such one.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise Unfit("no NVIDIA card here")
    return device


def _scaled(
    frame: UInt8[np.ndarray, "_ _ 3"], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The frame in that shape, scaled as PyAV's are."""
    if frame.shape == shape:
        return frame
    whole = av.VideoFrame.from_ndarray(frame, "rgb24")
    small: UInt8[np.ndarray, "_ _ 3"] = whole.reformat(
        width=shape[1], height=shape[0], format="rgb24", interpolation=SCALING, threads=1
    ).to_ndarray()
    return small
