"""Bounds of settings: checked whenever a `Config` is made, and readable."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from store.errors import ConfigError
from store.settings import Bounds, Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Some(Settings):
    share: float = setting(0.5, at_least=0, below=1)
    weight: float = setting(1.0, above=0)
    count: int = setting(3, at_least=1)
    word: str = setting("mean", among=("mean", "sum"))
    limit: float = float("inf")
    free: float = 0.0

    def check(self) -> None:
        if self.count == 13:
            raise ConfigError(f"{self.prefix()}13 is unlucky")


@dataclass(frozen=True, slots=True)
class Section(Settings):
    epochs: int = setting(5, at_least=1, at_most=9)
    name: ClassVar[str] = "optimiser."

    @classmethod
    def prefix(cls) -> str:
        return cls.name


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"share": 1.0}, r"test_settings: share=1\.0 is not in \[0, 1\)"),
        ({"share": -0.1}, r"is not in \[0, 1\)"),
        ({"share": float("nan")}, "share=nan is not finite"),
        ({"weight": 0.0}, r"weight=0\.0 is not above 0"),
        ({"weight": float("inf")}, "weight=inf is not finite"),
        ({"count": 0}, "count=0 is less than 1"),
        ({"word": "men"}, r"word='men' is none of mean, sum \(did you mean 'mean'\?\)"),
        ({"free": float("-inf")}, "free=-inf is not finite"),
        ({"limit": float("nan")}, "limit=nan is not a number"),
        ({"count": 13}, "test_settings: 13 is unlucky"),
    ],
)
def test_out_of_bounds_is_never_made(settings, fault):
    with pytest.raises(ConfigError, match=fault):
        Some(**settings)


def test_what_is_within_bounds_is():
    settings = Some(share=0.0, weight=1e-30, count=1, word="sum", limit=float("inf"), free=-5.0)
    assert (settings.share, settings.count, settings.word) == (0.0, 1, "sum")


def test_a_section_names_itself():
    with pytest.raises(ConfigError, match=r"^optimiser\.epochs=10 is not in \[1, 9\]$"):
        Section(epochs=10)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (Bounds(above=0), "above 0"),
        (Bounds(at_least=1), "1 or more"),
        (Bounds(below=0.5), "below 0.5"),
        (Bounds(at_most=7), "at most 7"),
        (Bounds(at_least=0, below=1), "in [0, 1)"),
        (Bounds(above=0, at_most=1), "in (0, 1]"),
        (Bounds(among=("a", "b")), "one of a, b"),
    ],
)
def test_bounds_read_well(bounds, text):
    assert str(bounds) == text
