"""VGGish's postprocessing: principal components, clipped and stored in eight bits.

Shapes: B = embeddings, D = 128, P = components.

Source: Hershey et al. (2017) and AudioSet's released features; tensorflow/models,
`vggish_postprocess.py`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from extract.encoders._resize import kept
from extract.weights.loading import unpickle
from store.errors import InputError, MissingFile, WeightsError
from store.exchange.formats.npz import read_numbers

DIM = 128
LIMIT = 2.0  # components are clipped to -2..2
KEYS = ("pca_eigen_vectors", "pca_means")
DTYPES = {"f4": "<f4", "f8": "<f8"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pca:
    """Fitted components; `sha256` is that of their file."""

    vectors: Float[Tensor, "P D"]
    means: Float[Tensor, "D"]
    sha256: str

    def __call__(self, rows: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        """Whole numbers 0..255: the fraction is cut off, as TensorFlow does."""
        means, vectors = (kept(rows.device, _same, x) for x in (self.means, self.vectors))
        parts = (rows - means) @ vectors.T
        return ((parts.clamp(-LIMIT, LIMIT) + LIMIT) * (255 / (2 * LIMIT))).floor()


def _same(x: Tensor) -> Tensor:
    return x


def read_pca(path: Path) -> Pca:
    """The components of `vggish_pca_params`, TensorFlow's .npz or torchvggish's .pth.

    Raises:
        MissingFile: no such file.
        WeightsError: another format, or not 128 components of 128 numbers.
    """
    if not path.is_file():
        raise MissingFile(f"pca {path} is not there; check the path")
    readers = {".npz": _read_npz, ".pth": _read_pth}
    if path.suffix not in readers:
        raise WeightsError(f"pca {path} ends in {path.suffix!r}; those read are .npz and .pth")
    vectors, means = readers[path.suffix](path)
    if vectors.shape != (DIM, DIM) or means.size != DIM:
        raise WeightsError(
            f"pca {path} holds {list(vectors.shape)} and {list(means.shape)} "
            f"instead of [{DIM}, {DIM}] and [{DIM}]"
        )
    return Pca(
        vectors=torch.from_numpy(vectors),
        means=torch.from_numpy(means.reshape(DIM)),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _arrays(path: Path, content: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        vectors, means = (np.array(content[key], np.float32) for key in KEYS)
    except (KeyError, ValueError, TypeError):
        raise WeightsError(f"pca {path} does not hold the arrays {' and '.join(KEYS)}") from None
    return vectors, means


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        return _arrays(path, read_numbers(path, KEYS, most=DIM * DIM))
    except InputError as error:
        raise WeightsError(f"pca {error}") from None


def _read_pth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """torchvggish saved numpy arrays, which torch's safe reader does not know: stand-ins take them.

    Nothing of numpy's own unpickling runs; the stand-ins accept plain numbers and no more.
    """
    stand_ins: list[tuple[Callable[..., Any], str]] = [
        (_Numbers, "numpy.ndarray"),
        (_Dtype, "numpy.dtype"),
        (_empty, "numpy.core.multiarray._reconstruct"),
        (_empty, "numpy._core.multiarray._reconstruct"),
    ]
    content = unpickle(path, stand_ins)
    if not isinstance(content, Mapping):
        raise WeightsError(f"pca {path} holds no arrays but a {type(content).__name__}")
    plain = {k: v.values if isinstance(v, _Numbers) else v for k, v in content.items()}
    return _arrays(path, plain)


class _Dtype:
    """Takes the place of `numpy.dtype`: little-endian floats of one or two words."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = DTYPES[code]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise ValueError(f"byte order {state[1]!r}")


class _Numbers:
    """Takes the place of `numpy.ndarray`."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, columns_first, raw = state
        values = np.frombuffer(raw, dtype.code)
        self.values = values.reshape(shape[::-1]).T if columns_first else values.reshape(shape)


def _empty(*_: object) -> _Numbers:
    return _Numbers()
