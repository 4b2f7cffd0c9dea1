"""Text for people: tables and lines that fit 80 columns, on stdout."""

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def wrapped(text: str, indent: str = "") -> None:
    """Print a paragraph; `indent` goes before its first line."""
    print(textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent + "    "))


def table(rows: list[dict[str, Any]], columns: list[str], *, header: bool = True) -> None:
    """Print rows under their columns."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(str(row[column]) for column in columns))
    Console(highlight=False).print(drawn)


def pairs(facts: Mapping[str, Any]) -> None:
    """Print a name and its value a line."""
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in facts.items()}
    table([{"key": k, "value": v} for k, v in shown.items()], ["key", "value"], header=False)
