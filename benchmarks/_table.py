"""Prints the rows that benchmarks yield."""

from collections.abc import Iterable, Mapping
from typing import Any

HEADER = f"{'what':56} {'value':>10} {'unit':9} {'ratio':>8} {'goal':>8}  against"


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """One line a row, as soon as it is measured."""
    print(HEADER)
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        text = f"{row['what']:56} {row['value']:10.4g} {row['unit']:9} {ratio:>8} {goal:>8}"
        print(f"{text}  {row['against'] or ''}".rstrip(), flush=True)
