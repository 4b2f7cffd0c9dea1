"""Every benchmark in one table: `make bench`, or `python -m benchmarks NAME…` for some.

A benchmark is a module of this folder with `measure()`, which yields a row per figure (the others
are tools of their own):

    what      what was measured
    value     the figure, in `unit`
    ratio     against the twin or limit measured in the same run, or None
    against   what that is
    goal      the ratio (or, without one, the value) aimed at, or None
"""

import sys
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import iter_modules

from benchmarks._table import show


def main(names: list[str]) -> None:
    folder = Path(__file__).parent
    modules = [module.name for module in iter_modules([str(folder)])]
    known = [name for name in modules if "\ndef measure(" in (folder / f"{name}.py").read_text()]
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    chosen = (import_module(f"benchmarks.{name}") for name in names or known)
    show(chain.from_iterable(module.measure() for module in chosen))


if __name__ == "__main__":
    main(sys.argv[1:])
