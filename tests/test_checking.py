"""What the checker of the suite refuses, as jaxtyping's own would."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float, TypeCheckError

import extract.media.sampling
import learn.fewshot.kept
import store.sizes

Vector = Float[np.ndarray, "N"]


def checked(fn):
    """As the import hook would decorate it."""
    return jaxtyping.jaxtyped(fn, typechecker=beartype)


@checked
def plain(number: int, *more: str, name: "str" = "") -> str:
    return name if number < 5 else number  # a wrong return for large numbers


@checked
def with_arrays(left: Vector, right: Vector, times: int = 1) -> Vector:
    return np.concatenate([left] * times) + np.concatenate([right] * times)


@checked
def sized(count: int) -> Float[np.ndarray, "{count}"]:
    return np.ones(abs(count))


@checked
def nested(vectors: dict[str, Vector | None]) -> list[Vector]:
    return [x for x in vectors.values() if x is not None]


@checked
def inside(left: list[Vector], right: dict[str, Vector]) -> int:
    return len(left) + len(right)


@checked
def counting(end: int) -> Iterator[int]:
    yield from range(end)


@checked
def forward(value: "NobodyKnowsThis") -> "NobodyKnowsThis":
    return value


@checked
@dataclass
class Pair:
    left: Vector
    right: Vector

    @property
    @checked
    def size(self) -> int:
        return len(self.left)


ONE, TWO = np.ones(1), np.ones(2)


def test_what_is_right_passes():
    assert plain(1, "a", name="b") == "b"
    assert with_arrays(TWO, TWO).tolist() == [2, 2]
    assert len(sized(3)) == 3
    assert len(nested({"a": TWO, "b": None})) == 1
    assert inside([TWO], {"a": TWO}) == 2
    assert list(counting(3)) == [0, 1, 2]
    assert forward(3) == 3
    assert Pair(TWO, TWO).size == 2
    assert plain.__annotations__ == {"number": int, "more": str, "name": "str", "return": str}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: plain("1"),
        lambda: plain(1, 2),
        lambda: plain(1, name=3),
        lambda: plain(7),
        lambda: with_arrays(ONE, TWO),
        lambda: with_arrays(TWO, TWO, times="2"),
        lambda: with_arrays(TWO, TWO, times=2),
        lambda: with_arrays(TWO.astype(int), TWO.astype(int)),
        lambda: with_arrays(TWO[None], TWO[None]),
        lambda: sized(-3),
        lambda: nested({"a": [1.0]}),
        lambda: inside([ONE], {"a": TWO}),
        lambda: counting("3"),
        lambda: Pair(ONE, TWO),
        lambda: Pair(ONE, right=None),
        lambda: store.sizes.parse_size(3.5),
        lambda: extract.media.sampling.Sampling(fps="x"),
        lambda: learn.fewshot.kept._gram(3),
    ],
)
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


def test_sizes_of_one_call_bind_nothing_in_another():
    assert len(with_arrays(ONE, ONE)) == 1
    assert len(with_arrays(TWO, TWO)) == 2


def test_a_call_that_does_not_fit_the_signature_is_pythons_own_error():
    broken: Any = with_arrays
    with pytest.raises(TypeError, match="missing"):
        broken(ONE)
    with pytest.raises(TypeError, match="unexpected"):
        plain(1, colour=2)
