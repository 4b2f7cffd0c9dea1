"""The grid of `learn sweep`: values of settings, and their combinations."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from store.errors import ConfigError


def parse_grid(grid: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of each setting, from texts "section.key=a,b,c".

    Raises:
        ConfigError: another form, a setting twice, or a value twice.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for axis in grid:
        key, has_values, text = axis.partition("=")
        values = tuple(value.strip() for value in text.split(","))
        if not has_values or "." not in key or not all(values):
            raise ConfigError(f"`grid` {axis!r} is not SECTION.KEY=A,B,…")
        if key in axes or len(set(values)) < len(values):
            raise ConfigError(f"`grid` {axis!r} says something twice")
        axes[key] = values
    if not axes:
        raise ConfigError("no `grid`; write `grid` optimiser.learning_rate=1e-3,1e-4")
    return axes


def combinations(axes: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
