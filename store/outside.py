"""Plug-ins of other packages: found by entry points, or by the place `module.path/attr`.

A distribution offers a plug-in in the group of its family: a family `learn.fewshot.heads` has the
group `microshot.heads`.

    [project.entry-points."microshot.heads"]
    medians = "my_package.medians"             # a module with `Config` and `build`
    trimmed = "my_package.more:Trimmed"        # or an object with both

The same two are `my_package/medians` and `my_package.more/Trimmed` to those who would rather name
the place. Where a module is a plug-in by itself, `my_package.medians/build` names it as well.
Nothing is imported to find, list or check plug-ins: their source is read.
"""

import sys
from dataclasses import dataclass
from functools import cache

from store import source

PREFIX = "microshot"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a plug-in stands: a module, or an attribute of one."""

    module: str
    attribute: str | None = None
    name: str = ""  # that its entry point has
    distribution: str | None = None  # name and version of who offers it

    def __str__(self) -> str:
        """The place as a NAME of a SPEC."""
        return f"{self.module}/{self.attribute or 'build'}"


def group(family: str) -> str:
    """The group of entry points of a family: `microshot.heads`."""
    return f"{PREFIX}.{family.rpartition('.')[2]}"


def is_place(name: str) -> bool:
    """Whether a NAME is the place of a plug-in rather than a name."""
    module, slash, attribute = name.partition("/")
    return (
        bool(slash) and attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))
    )


def located(name: str) -> Place:
    """The place that `module.path/attr` names: a module in that package, or an attribute of it."""
    module, _, attribute = name.partition("/")
    if attribute == "build":
        return Place(module)
    if source.exists(f"{module}.{attribute}"):
        return Place(f"{module}.{attribute}")
    return Place(module, attribute)


def offered(family: str) -> tuple[Place, ...]:
    """What installed distributions offer a family, by name and distribution; imports nothing."""
    return _offered(group(family), tuple(sys.path))


@cache
def _offered(of_group: str, path: tuple[str, ...]) -> tuple[Place, ...]:
    from importlib.metadata import entry_points  # reads every distribution: when it is asked only

    places = [
        Place(
            entry.module, entry.attr or None, entry.name.replace("-", "_"),
            f"{entry.dist.name} {entry.dist.version}" if entry.dist else None,
        )
        for entry in entry_points(group=of_group)
    ]  # fmt: skip
    return tuple(sorted(places, key=lambda place: (place.name, place.distribution or "")))
