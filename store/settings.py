"""Settings with bounds: the fields of a plug-in's `Config`, or of a section of a recipe.

    @dataclass(frozen=True, slots=True)
    class Config(Settings):
        alpha: float = setting(1.0, above=0)
        metric: str = setting("cosine", among=("cosine", "euclidean"))

Bounds are checked when such an object is made, and stand in the listings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from store.errors import ConfigError, choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The values that a setting may have, and words that stand for some of them."""

    among: tuple[Any, ...] = ()
    above: int | float | None = None
    at_least: int | float | None = None
    below: int | float | None = None
    at_most: int | float | None = None
    words: Mapping[str, Any] = field(default_factory=dict)

    def fault(self, value: Any) -> str | None:
        """The bound that `value` breaks, as the end of a sentence; None if it breaks none."""
        if self.among:
            known = tuple(map(str, self.among))
            return None if value in self.among else f"is none of {choices(str(value), known)}"
        if self.holds(value):
            return None
        only_least = self.at_least is not None and self.below is None and self.at_most is None
        return f"is less than {self.at_least:g}" if only_least else f"is not {self}"

    def holds(self, number: int | float) -> bool:
        """Whether the number is within all four limits."""
        return (
            (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.below is None or number < self.below)
            and (self.at_most is None or number <= self.at_most)
        )

    def __str__(self) -> str:
        """The bounds for people: `above 0`, `1 or more`, `in [0, 1)`, `one of mean, sum`."""
        words = "".join(f", or {word} ({value})" for word, value in self.words.items())
        return self._limits() + words

    def _limits(self) -> str:
        if self.among:
            return f"one of {', '.join(map(str, self.among))}"
        low = self.above if self.at_least is None else self.at_least
        high = self.below if self.at_most is None else self.at_most
        if high is None:
            return f"above {low:g}" if self.at_least is None else f"{low:g} or more"
        if low is None:
            return f"below {high:g}" if self.at_most is None else f"at most {high:g}"
        opening, closing = "[("[self.at_least is None], "])"[self.at_most is None]
        return f"in {opening}{low:g}, {high:g}{closing}"


def setting(
    default: Any,
    *,
    among: Sequence[Any] = (),
    above: int | float | None = None,
    at_least: int | float | None = None,
    below: int | float | None = None,
    at_most: int | float | None = None,
    words: Mapping[str, Any] | None = None,
    main: bool = False,
) -> Any:
    """A field with bounds, which are checked when a `Config` is made and shown in listings.

    `words` may stand for values where settings are written down: `{"same": 0}`. The `main` setting
    is the one that a SPEC may give without its key: `fps:2`.
    """
    bounds = Bounds(
        among=tuple(among), above=above, at_least=at_least, below=below, at_most=at_most,
        words=words or {},
    )  # fmt: skip
    known = {"bounds": bounds} if bounds != Bounds() else {}
    return field(default=default, metadata={**known, "main": main})


class Settings:
    """Base of every settings dataclass: one that is out of bounds is never made.

    Numbers are finite unless their default is not. Rules between settings go into `check`.

    Raises:
        ConfigError: names the setting, its value and its bounds.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for own in fields(self):  # type: ignore[arg-type]
            if fault := _fault(getattr(self, own.name), own):
                raise ConfigError(f"{self.prefix()}{own.name}={getattr(self, own.name)!r} {fault}")
        self.check()

    def check(self) -> None:
        """Refuse settings that do not go together; begin the error with `prefix()`."""

    @classmethod
    def prefix(cls) -> str:
        """The plug-in that has the setting, as errors put it before the setting's name."""
        return f"{cls.__module__.rpartition('.')[2]}: "


def _fault(value: Any, of: Field) -> str | None:
    """The reason that a field may not have this value; None if it may."""
    if isinstance(value, float) and not math.isfinite(value):
        finite = isinstance(of.default, int | float) and math.isfinite(of.default)
        if finite or math.isnan(value):
            return "is not finite" if finite else "is not a number"
    bounds: Bounds | None = of.metadata.get("bounds")
    return bounds.fault(value) if bounds else None
