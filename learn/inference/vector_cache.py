"""Vectors of all clips of a store under one projection, kept in files that are mapped.

The first command that looks at every clip writes them as it goes; the next ones map them. The
folder's name holds a digest of all that decides the vectors: the features and their committed
parts, the projection's weights, and which of both sides are asked for. Another digest is another
folder, and the old one goes. Whatever is damaged, torn or not writable is as if it were not there.

    table.json         what is there: sizes, and checksums by block of 8,192 clips
    ids.arrow          the clip ids, in the order of the vectors
    <n>.vectors        float32, a row a clip
    <n>.present        uint8, whether the clip has such a vector

Shapes: V = clips, B = clips of a block, D = size of a vector.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, overload

import google_crc32c
import numpy as np
import torch

from learn.inference.embed import CLIPS, EmbeddedBatch
from learn.training.run_files import DONE
from store.columns import arrow_of
from store.errors import StoreError
from store.storage import posix

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

    from learn.training.runs import Run
    from store import Feature

VERSION = 1  # of the files, and of how a clip's vectors are made of its rows
ENOUGH = 4096  # clips: from here on it pays
_TEMPORARY_SECONDS = 24 * 3600  # then whoever was writing there has died
FREE_SHARE = 4  # of the disk's free bytes a cache may take one part

Make = Callable[[], Iterator[EmbeddedBatch]]


class Ids(Sequence[str]):
    """Clip ids as Arrow holds them, text where one is asked for."""

    def __init__(self, column: "ChunkedArray") -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Ids": ...
    def __getitem__(self, index: int | slice) -> "str | Ids":
        if isinstance(index, slice):
            first, stop, _ = index.indices(len(self))
            return Ids(self._column.slice(first, max(0, stop - first)))
        text: str = self._column[index].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        return iter(self._column.to_pylist())


class _Damaged(Exception):  # noqa: N818
    """The files are not what was written; nobody outside needs to know."""


class _Part(NamedTuple):
    """The vectors of one name."""

    name: str
    dim: int
    masked: bool  # it has a mask of its own
    checksums: list[int]  # of each block's vectors and mask


class VectorCache:
    """The vectors of all committed clips of these features, by this projection."""

    def __init__(
        self, features: Mapping[str, "Feature"], run: "Run | None", *, both: bool = False
    ) -> None:
        self._clips = max((feature.committed_clips for feature in features.values()), default=0)
        roots = {feature.local_path for feature in features.values()}
        self._root = roots.pop() if len(roots) == 1 and self._clips >= ENOUGH else None
        about = [VERSION, [(m, f.name) for m, f in features.items()], _projection(run), both]
        name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        parts = [feature.parts_digest for feature in features.values()]
        digest = hashlib.sha256(json.dumps([about, parts]).encode()).hexdigest()[:32]
        self._key = f"index/vectors/{name}-{digest}"

    def batches(self, make: Make) -> Iterator[EmbeddedBatch]:
        """The vectors block by block: those that are kept, else what `make` gives, kept on its
        way. The order is that of `make`."""
        if self._root is None:
            yield from make()
            return
        done = 0
        try:
            for batch in _Opened(self._root / self._key).batches():
                yield batch
                done += len(batch.ids)
        except _Damaged:
            yield from _after(self._kept(self._root, make()), done)

    def _kept(self, root: Path, batches: Iterator[EmbeddedBatch]) -> Iterator[EmbeddedBatch]:
        """The batches, written beside as long as the disk takes them."""
        with _Writer(root, self._key, self._clips) as writer:
            for batch in batches:
                yield batch
                writer.add(batch)
            writer.finish()


def _projection(run: "Run | None") -> list[str]:
    """What decides a projection: the digests of its files, and what it is computed on."""
    if run is None:
        return []
    where = next((x.device.type for x in run.space.parameters()), "cpu")
    return [hashlib.sha256((run.path / DONE).read_bytes()).hexdigest(), where]


def _after(batches: Iterator[EmbeddedBatch], done: int) -> Iterator[EmbeddedBatch]:
    """The batches without their first clips."""
    for batch in batches:
        if done >= len(batch.ids):
            done -= len(batch.ids)
            continue
        yield EmbeddedBatch(
            batch.ids[done:],
            {name: x[done:] for name, x in batch.vectors.items()},
            {name: x[done:] for name, x in batch.present.items()},
        )
        done = 0


def _plain(path: Path) -> Path:
    """The path of a regular file: opening a pipe would wait for ever."""
    if not path.is_file():
        raise _Damaged
    return path


# What readers say of a file that is none of ours.
_NOT_OURS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


class _Opened:
    """Vectors that are kept.

    Raises:
        _Damaged: they are not there, or not what was written; from both members.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow

        try:
            table = json.loads(_plain(folder / "table.json").read_bytes())
            checked = google_crc32c.value(json.dumps(table["about"]).encode())
            if checked != table["crc32c"]:
                raise _Damaged
            about = table["about"]
            self._clips = int(about["clips"])
            self._parts = [_Part(**part) for part in about["parts"]]
            blocks = -(-self._clips // CLIPS)
            own = {part.name for part in self._parts}
            if not own or {len(part.checksums) for part in self._parts} != {blocks}:
                raise _Damaged
            data = _plain(folder / "ids.arrow").read_bytes()
            if google_crc32c.value(data) != about["ids"]:
                raise _Damaged
            read = pyarrow.ipc.open_file(pyarrow.BufferReader(data)).read_all()
            self._ids = Ids(read.column("clip_id"))
            shape = self._clips
            self._vectors = [
                np.memmap(_plain(folder / f"{i}.vectors"), np.float32, "r", shape=(shape, part.dim))
                for i, part in enumerate(self._parts)
            ]
            self._present = [
                np.memmap(_plain(folder / f"{i}.present"), np.uint8, "r", shape=(shape,))
                for i, part in enumerate(self._parts)
            ]
        except _NOT_OURS as error:
            raise _Damaged from error
        if len(self._ids) != self._clips:
            raise _Damaged

    def batches(self) -> Iterator[EmbeddedBatch]:
        """All clips, a block at a time, each compared with its checksum."""
        for number, first in enumerate(range(0, self._clips, CLIPS)):
            block = slice(first, first + CLIPS)
            vectors, present = {}, {}
            for part, x, has in zip(self._parts, self._vectors, self._present, strict=True):
                rows, mask = np.array(x[block]), np.array(has[block])
                if _checksum(rows, mask) != part.checksums[number]:
                    raise _Damaged
                vectors[part.name] = torch.from_numpy(rows)
                if part.masked:
                    present[part.name] = torch.from_numpy(mask.view(bool))
            yield EmbeddedBatch(self._ids[block], vectors, present)


class _Writer:
    """A cache that is being written; once the disk refuses anything, nothing more is tried."""

    def __init__(self, root: Path, key: str, clips: int) -> None:
        self._root, self._key, self._expected = root, key, clips
        self._folder: Path | None = None
        self._files: list[tuple[BinaryIO, BinaryIO]] = []
        self._parts: list[_Part] = []
        self._ids: list[Sequence[str]] = []
        self._waiting: list[EmbeddedBatch] = []
        self._clips = 0

    def __enter__(self) -> "_Writer":
        folder = self._root / "index" / "vectors" / f"tmp-{token_hex(8)}"
        with suppress(OSError, StoreError):  # a store we may only read, a link
            posix.inside(self._root, self._key)
            folder.mkdir(parents=True)
            self._folder = folder
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def add(self, batch: EmbeddedBatch) -> None:
        """Write a batch, in whole blocks."""
        if self._folder is None:
            return
        try:
            if not self._files:
                self._begin(self._folder, batch)
            self._waiting.append(batch)
            if sum(len(waiting.ids) for waiting in self._waiting) >= CLIPS:
                self._write(_joined(self._waiting), whole=True)
        except OSError:
            self._give_up()

    def finish(self) -> None:
        """Write what is left, and put the cache into its place; others of its name go."""
        import pyarrow

        if self._folder is None or not self._files:
            return
        try:
            if self._waiting:
                self._write(_joined(self._waiting), whole=False)
            for pair in self._files:
                for file in pair:
                    file.close()
            ids = pyarrow.table({"clip_id": arrow_of([i for part in self._ids for i in part])})
            sink = pyarrow.BufferOutputStream()
            with pyarrow.ipc.new_file(sink, ids.schema) as writer:
                writer.write_table(ids.combine_chunks())
            data = sink.getvalue().to_pybytes()
            (self._folder / "ids.arrow").write_bytes(data)
            about = {
                "clips": self._clips,
                "parts": [part._asdict() for part in self._parts],
                "ids": google_crc32c.value(data),
            }
            table = {"about": about, "crc32c": google_crc32c.value(json.dumps(about).encode())}
            (self._folder / "table.json").write_text(json.dumps(table))
            self._take_place(self._folder)
        except OSError:
            self._give_up()

    def _take_place(self, folder: Path) -> None:
        target = self._root / self._key
        shutil.rmtree(target, ignore_errors=True)  # damaged, if it is there
        folder.rename(target)
        self._folder = None
        for other in target.parent.iterdir():
            replaced = other.name.startswith(f"{target.name.partition('-')[0]}-")
            with suppress(OSError):
                abandoned = time.time() - other.stat().st_mtime > _TEMPORARY_SECONDS
                if (replaced and other != target) or (other.name[:4] == "tmp-" and abandoned):
                    shutil.rmtree(other, ignore_errors=True)

    def _begin(self, folder: Path, batch: EmbeddedBatch) -> None:
        size = sum(4 * x.shape[1] + 1 for x in batch.vectors.values()) * self._expected
        if size > shutil.disk_usage(folder).free // FREE_SHARE:
            raise OSError("too large for what the disk has left")
        for i, (name, x) in enumerate(batch.vectors.items()):
            self._parts.append(_Part(name, x.shape[1], name in batch.present, []))
            self._files.append(
                ((folder / f"{i}.vectors").open("wb"), (folder / f"{i}.present").open("wb"))
            )

    def _write(self, batch: EmbeddedBatch, *, whole: bool) -> None:
        """Write blocks; the rest waits where only `whole` ones are meant."""
        stop = len(batch.ids) // CLIPS * CLIPS if whole else len(batch.ids)
        for part, (vectors, masks) in zip(self._parts, self._files, strict=True):
            every = torch.ones(len(batch.ids), dtype=torch.bool)
            mask = batch.present.get(part.name, every).cpu().numpy().view(np.uint8)
            x = np.ascontiguousarray(batch.vectors[part.name].float().cpu().numpy())
            for first in range(0, stop, CLIPS):
                rows, has = (
                    x[first : min(first + CLIPS, stop)],
                    mask[first : min(first + CLIPS, stop)],
                )
                part.checksums.append(_checksum(rows, has))
                vectors.write(rows.tobytes())
                masks.write(has.tobytes())
        self._ids.append(batch.ids[:stop])
        self._clips += stop
        self._waiting = list(_after(iter([batch]), stop))

    def _give_up(self) -> None:
        for pair in self._files:
            for file in pair:
                with suppress(OSError):
                    file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _joined(batches: Sequence[EmbeddedBatch]) -> EmbeddedBatch:
    if len(batches) == 1:
        return batches[0]
    return EmbeddedBatch(
        tuple(clip for batch in batches for clip in batch.ids),
        {name: torch.cat([b.vectors[name] for b in batches]) for name in batches[0].vectors},
        {name: torch.cat([b.present[name] for b in batches]) for name in batches[0].present},
    )


def _checksum(rows: np.ndarray, mask: np.ndarray) -> int:
    crc: int = google_crc32c.extend(google_crc32c.value(rows.tobytes()), mask.tobytes())
    return crc
