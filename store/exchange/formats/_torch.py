"""torch's files of tensors, read and written without torch.

A zip archive of stored members: `data.pkl` names tensors, `data/<key>` holds their storages. The
pickle goes through the restricted reader, as with `torch.load(weights_only=True)`. Before torch 1.6
it was a row of pickles with the storages behind them.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from store import safe_pickle
from store.errors import InputError
from store.exchange.formats._common import opened

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_STORAGE_OF = {np.dtype(t): n for n, t in safe_pickle.STORAGES.items() if t not in ("bf16", "b1")}


def read_torch(path: Path, *, trust_pickle: bool) -> Any:
    """The object in a file of torch; `safe_pickle.array` gives its tensors.

    Raises:
        InputError: damaged, compressed, or with more in it than tensors; a pickle that is no zip
            archive, unless trusted.
    """
    if not path.is_file():
        raise InputError(f"{path} is no plain file")
    if _is_zip(path):
        return _read_zip(path)
    safe_pickle.check_trust(path, trust_pickle)
    data = safe_pickle.read_bytes(path)
    if data.startswith(_LEGACY_HEAD):
        return _read_legacy(io.BytesIO(data), len(data), path)
    return safe_pickle.load(io.BytesIO(data), name=str(path))


def inspect_torch(path: Path) -> None:
    """Look over a file that torch itself is to load: its parts, and what its pickle would cost.

    torch reads a storage at the length that the pickle says, unpacks what is compressed to any
    size, and hashes keys that never end.

    Raises:
        InputError: damaged, or no file that torch would write.
    """
    size = path.stat().st_size
    if not _is_zip(path):

        def within(pid: tuple[Any, ...]) -> Callable[[], np.ndarray]:
            _, item_bytes, numel = _any_reference(pid, path)
            if numel * item_bytes > size:
                raise InputError(f"{path}: a storage is not as large as it says")
            return _nothing

        with path.open("rb") as file:
            legacy = file.read(len(_LEGACY_HEAD)) == _LEGACY_HEAD
            file.seek(0)
            for _ in range(5 if legacy else 1):
                safe_pickle.inspect(file, name=str(path), storage=within, size_bytes=size)
        return
    top, head, sizes = _parts(path)

    def held(pid: tuple[Any, ...]) -> Callable[[], np.ndarray]:
        key, item_bytes, numel = _any_reference(pid, path)
        if numel * item_bytes != sizes.get(f"{top}data/{key}", 0):
            raise InputError(f"{path}: a storage is not as large as it says")
        return _nothing

    safe_pickle.inspect(io.BytesIO(head), name=str(path), storage=held, size_bytes=size)


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # one in several pieces; opening it says so
        return True


def _nothing() -> np.ndarray:
    return np.empty(0)


def _any_reference(pid: tuple[Any, ...], path: Path) -> tuple[str, int, int]:
    """Key, bytes an item and items of a storage, which may be of a type that numpy lacks."""
    if len(pid) in (5, 6) and isinstance(pid[2], str) and type(pid[4]) is int and pid[4] >= 0:
        is_known = isinstance(pid[1], safe_pickle.StorageType)
        return pid[2], pid[1].dtype.itemsize if is_known else 1, pid[4]
    raise InputError(f"{path} refers to something that is no storage")


def _parts(path: Path) -> tuple[str, bytes, dict[str, int]]:
    """Folder, pickle and sizes of the members of torch's zip archive, which are what they seem."""
    with opened(path, zipfile.ZipFile) as archive:
        members = archive.infolist()
        names = [info.filename for info in members]
        heads = [name for name in names if name.endswith("/data.pkl")]
        if len(heads) != 1 or len(set(names)) != len(names):
            raise InputError(f"{path} is no file of torch: it has {len(heads)} data.pkl")
        if sum(info.compress_size for info in members) > path.stat().st_size:
            raise InputError(f"{path} is no file of torch: its members overlap")
        for info in members:
            _check_stored(archive, info)
        top = heads[0].removesuffix("data.pkl")
        order = archive.read(f"{top}byteorder") if f"{top}byteorder" in names else b"little"
        head = archive.read(heads[0])
    if order != b"little":
        raise InputError(f"{path} is not little-endian; save it again on another machine")
    return top, head, {info.filename: info.file_size for info in members}


def _read_zip(path: Path) -> Any:
    top, head, _ = _parts(path)

    def storage(pid: tuple[Any, ...]) -> Callable[[], np.ndarray]:
        kind, key, numel = _reference(pid, path)

        @cache
        def load() -> np.ndarray:
            with opened(path, zipfile.ZipFile) as archive:
                return _numbers(archive.read(f"{top}data/{key}"), kind, numel, path)

        return load

    size = path.stat().st_size
    return safe_pickle.load(io.BytesIO(head), name=str(path), storage=storage, size_bytes=size)


def _check_stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """A member that is stored as it is cannot be larger than the file."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise InputError(f"{archive.filename}: {info.filename} is compressed: torch never does so")


def _read_legacy(file: io.BytesIO, size: int, path: Path) -> Any:
    held: dict[str, np.ndarray] = {}
    kinds: dict[str, tuple[safe_pickle.StorageType, int]] = {}

    def storage(pid: tuple[Any, ...]) -> Callable[[], np.ndarray]:
        kind, key, numel = _reference(pid, path)
        kinds[key] = kind, numel
        return lambda: held[key]

    def load() -> Any:
        return safe_pickle.load(file, name=str(path), storage=storage)

    magic, _, _, content, keys = (load() for _ in range(5))
    plain = isinstance(keys, list) and all(type(key) is str for key in keys)
    if magic != _LEGACY_MAGIC or not plain or sorted(keys) != sorted(kinds):
        raise InputError(f"{path} is no file of torch")
    for key in keys:
        kind, numel = kinds[key]
        head = file.read(8)
        data = file.read(min(size, numel * kind.dtype.itemsize))
        if len(head) < 8 or struct.unpack("<q", head)[0] != numel:
            raise InputError(f"{path}: storage {key[:40]!r} is not as large as it says")
        held[key] = _numbers(data, kind, numel, path)
    return content


def _reference(pid: tuple[Any, ...], path: Path) -> tuple[safe_pickle.StorageType, str, int]:
    """Type, key and length of a storage a pickle refers to."""
    if len(pid) == 5 or (len(pid) == 6 and pid[5] is None):  # the sixth: a view, before torch 0.4
        tag, kind, key, _, numel = pid[:5]
        plain = isinstance(key, str) and type(numel) is int and numel >= 0
        if tag == "storage" and isinstance(kind, safe_pickle.StorageType) and plain:
            return kind, key, numel
    raise InputError(f"{path} refers to something that is no storage")


def _numbers(data: bytes, kind: safe_pickle.StorageType, numel: int, path: Path) -> np.ndarray:
    if len(data) != numel * kind.dtype.itemsize:
        raise InputError(f"{path}: a storage is not as large as it says")
    flat = np.frombuffer(data, kind.dtype)
    return (flat.astype("<u4") << 16).view("<f4") if kind.is_bfloat16 else flat


def write_torch(path: Path, content: Mapping[str, np.ndarray | Sequence[str]]) -> None:
    """Write a dictionary of tensors and lists of text as torch's zip archive."""
    program = [b"\x80\x02}("]  # protocol 2, an empty dictionary, a mark
    storages: list[np.ndarray] = []
    for name, value in content.items():
        program.append(_text(name))
        if isinstance(value, np.ndarray):
            little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            program.append(_tensor(little, len(storages)))
            storages.append(little)
        else:
            program += [b"](", *map(_text, value), b"e"]
    program.append(b"u.")
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        archive.writestr("features/data.pkl", b"".join(program))
        archive.writestr("features/byteorder", "little")
        for number, storage in enumerate(storages):
            with archive.open(f"features/data/{number}", "w", force_zip64=True) as file:
                file.write(storage.data.cast("B") if storage.size else b"")
        archive.writestr("features/version", "3\n")


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _numbers_tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


def _tensor(array: np.ndarray, key: int) -> bytes:
    strides = [step // array.itemsize for step in array.strides]
    return b"".join([
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        _text("storage"), f"ctorch\n{_STORAGE_OF[array.dtype]}\n".encode(),
        _text(str(key)), _text("cpu"), _number(array.size), b"tQ",
        _number(0), _numbers_tuple(array.shape), _numbers_tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ])  # fmt: skip
