"""Every benchmark in one table: `make bench`, or `python -m benchmarks NAME…` for some.

A benchmark is a module of this folder with `measure()`, which yields a row per figure:

    what      what was measured
    value     the figure, in `unit`
    ratio     against the twin or limit measured in the same run, or None
    against   what that is
    goal      the ratio (or, without one, the value) aimed at, or None
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

HEADER = f"{'what':56} {'value':>10} {'unit':9} {'ratio':>8} {'goal':>8}  against"


def line(row: Mapping[str, Any]) -> str:
    """One row as text."""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    goal = "" if row["goal"] is None else f"{row['goal']:g}"
    return (
        f"{row['what']:56} {row['value']:10.4g} {row['unit']:9} {ratio:>8} {goal:>8}  "
        f"{row['against'] or ''}"
    ).rstrip()


def main(names: list[str]) -> None:
    modules = iter_modules([str(Path(__file__).parent)])
    known = [module.name for module in modules if not module.name.startswith("_")]
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    print(HEADER)
    for name in names or known:
        for row in import_module(f"benchmarks.{name}").measure():
            print(line(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
