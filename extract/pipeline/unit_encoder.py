"""One feature of a run: from decoded clips to the rows of a unit.

Shapes: n = rows of a clip, R = rows of the unit, D = embedding size.
"""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Float64, Int32, Int64
from torch import Tensor

from extract.encoders import AudioEncoder, Encoder, StackEncoder, VisualEncoder
from extract.encoders._network import Way
from extract.media.clip import DECODER, AnyFrames, Clip, Frames, Stream
from extract.media.sampling import Sampling
from extract.pipeline.batching import Halving, Packer, device_of, items_of, limits_of
from extract.pipeline.landing import MAX_FLOAT16, as_stored
from extract.pipeline.pixels import Which, rgb
from extract.pipeline.stacks import lacking, stacked, starts
from store import FeatureSpec, Status, UnitRows

MAX_ROWS = 65_535


def feature_spec(encoder: Encoder, sampling: Sampling, decoder: str = "auto") -> FeatureSpec:
    """The identity of what `encoder` makes of clips looked at in this way.

    `auto` takes another decoder only where its pixels are, within a tolerance, PyAV's.
    """
    sampling_identity: dict[str, Any] = {"max_seconds": sampling.max_seconds, "decoder": DECODER}
    if isinstance(encoder, VisualEncoder):
        sampling_identity |= sampling.identity
        sampling_identity["decoder"] = DECODER if decoder == "auto" else decoder
        sampling_identity["short_side"] = encoder.short_side
    return FeatureSpec(
        slug=encoder.slug,
        modality=encoder.modality,
        dim=encoder.dim,
        identity={**encoder.identity, "sampling": sampling_identity},
        notes=encoder.notes,
    )


class UnitEncoder:
    """Takes the clips of a unit one by one, and gives its rows.

    Clips must come in the order of the unit: then the batches, and so the last bits of every row,
    are the same however often a run was interrupted.
    """

    def __init__(self, encoder: Encoder, *, batch_size: int) -> None:
        self.encoder = encoder
        # What kind it is, asked once: a question about a protocol looks at all of its members.
        self._visual = encoder if isinstance(encoder, VisualEncoder) else None
        self._stack = encoder if isinstance(encoder, StackEncoder) else None
        self._audio = encoder if isinstance(encoder, AudioEncoder) else None
        self.batch_size = batch_size
        limits, self._device = limits_of(encoder), device_of(encoder)
        self._way = Way(self._device)
        self._preprocess = Halving(encoder.preprocess, limits.preprocess)
        forward = Halving(lambda x: as_stored(encoder.forward(x)), limits.forward)
        # Windows over whole clips are rarely of one length: a batch would be mostly padding.
        whole = self._audio is not None and self._audio.window_seconds == 0
        self.packer = Packer(forward, 1 if whole else items_of(encoder, batch_size), limits.buffer)
        self._clear()

    def __len__(self) -> int:
        return len(self._clip_ids)

    @property
    def bytes(self) -> int:
        """Bytes of the rows that it holds, or will hold once its batches are through."""
        return 2 * self.encoder.dim * sum(map(len, self._times))

    def _clear(self) -> None:
        self._clip_ids: list[str] = []
        self._status: list[Status] = []
        self._detail: list[str] = []
        self._sha256: list[bytes] = []
        self._times: list[Int32[np.ndarray, "_"]] = []  # of the clips with rows

    def put(self, clip_id: str, clip: Clip) -> None:
        """Add the unit's next clip."""
        stream = clip.stream(self.encoder.modality)
        status, detail = stream.status, stream.detail
        if status.has_rows:
            times = self._times_of(stream)
            if len(times) > MAX_ROWS:
                status, detail = Status.REFUSED, f"{len(times)} rows; at most {MAX_ROWS}"
            else:
                self.packer.begin()
                count = 0
                for items in self._items(stream):
                    self.packer.extend(items)
                    count += len(items)
                assert count == len(times), (clip_id, count, len(times))
                self._times.append(np.round(1000 * times).astype(np.int32))
                if self._stack is not None:
                    detail = lacking(detail, self._frames_of(stream), self._stack.stack_frames)
        self._clip_ids.append(clip_id)
        self._status.append(status)
        self._detail.append(detail)
        self._sha256.append(clip.sha256)

    def _times_of(self, stream: Stream[Any]) -> Float64[np.ndarray, "n"]:
        """The second of each row."""
        if self._visual is not None:
            seconds: Float64[np.ndarray, "_"] = stream.data[self._visual.short_side].seconds
            return seconds if self._stack is None else seconds[self._starts(len(seconds))]
        assert self._audio is not None
        sound = stream.data[self._audio.sample_rate]
        return self._audio.window_starts_seconds(len(sound.samples))

    def _items(self, stream: Stream[Any]) -> Iterator[Tensor]:
        """The network's input, a batch of frames at a time: all frames of a long clip as floats
        would take a GB, and twice as long.
        """
        if self._stack is not None:
            frames = stream.data[self._stack.short_side]
            # One at a time: they may lie over each other.
            for start in self._starts(len(frames)).tolist():
                of_stack = stacked(len(frames), start, self._stack.stack_frames)
                yield self._prepared(self._pixels(frames, of_stack)[None])
            return
        if self._visual is not None:
            frames = stream.data[self._visual.short_side]
            for start in range(0, len(frames), self.batch_size):
                piece = slice(start, start + self.batch_size)
                yield self._prepared(self._pixels(frames, piece))
            return
        assert self._audio is not None
        sound = stream.data[self._audio.sample_rate]
        yield self._prepared(torch.from_numpy(sound.samples)[None])

    def _starts(self, frames: int) -> Int64[np.ndarray, "_"]:
        assert self._stack is not None
        return starts(frames, self._stack.stack_frames, self._stack.stack_hop)

    def _frames_of(self, stream: Stream[Any]) -> int:
        assert self._visual is not None
        return len(stream.data[self._visual.short_side])

    def _pixels(self, frames: AnyFrames, which: Which) -> Tensor:
        if isinstance(frames, Frames):
            return rgb(frames, which, self._way)
        with self.packer.clock.on(self._device):
            return rgb(frames, which, self._way)

    def _prepared(self, x: Tensor) -> Tensor:
        with self.packer.clock.on(self._device):
            return self._preprocess(x)

    def flush(self) -> None:
        """Let the network run what is left of the unit, in the thread that it belongs to."""
        self.packer.flush()

    def rows(self) -> UnitRows:
        """The rows of the clips put since the last call."""
        kept: list[Float16[np.ndarray, "_ D"]] = [np.zeros((0, self.encoder.dim), np.float16)]
        times: list[Int32[np.ndarray, "_"]] = [np.zeros(0, np.int32)]
        count = np.zeros(len(self._clip_ids), np.uint16)
        with_rows = [i for i, status in enumerate(self._status) if status.has_rows]
        for i, rows, when in zip(with_rows, self.packer.finish(), self._times, strict=True):
            if not bool(rows.isfinite().all()):
                self._status[i] = Status.NOT_FINITE
                self._detail[i] = f"{self.encoder.name} gave NaN or more than {MAX_FLOAT16:.0f}"
                continue
            kept.append(rows.numpy())
            times.append(when)
            count[i] = len(rows)
        unit = UnitRows(
            clip_ids=tuple(self._clip_ids),
            values=np.concatenate(kept),
            row_time_ms=np.concatenate(times),
            row_count=count,
            status=np.array(self._status, np.uint8),
            media_sha256=np.frombuffer(b"".join(self._sha256), np.uint8).reshape(-1, 32),
            detail=tuple(self._detail),
        )
        self._clear()
        return unit


def offered_by(encoder: Encoder) -> dict[str, str]:
    """The distribution of an encoder that is not ours, with its version, or else its module."""
    module = type(encoder).__module__
    package = module.partition(".")[0]
    if package == __name__.partition(".")[0]:
        return {}
    from store import outside

    places = outside.offered("extract.encoders")
    offered = (p.distribution for p in places if p.module.partition(".")[0] == package)
    return {"encoder": next(filter(None, offered), module)}


def provenance(*, device: str, batch_size: int) -> dict[str, Any]:
    """Facts of the machine and libraries that may change the last bits of a part."""
    return {
        "device": device,
        "batch_size": batch_size,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "av", "numpy")},
    }
