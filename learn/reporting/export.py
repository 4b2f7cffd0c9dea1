"""A report's figures and tables as files for a paper.

    figures/NAME.svg, .pdf, .png    a column wide (3.35 inches), or both where a figure needs it
    tables/NAME.csv, .tex           LaTeX for booktabs; of many rows for longtable

Names begin with the key of the section, as in the page's addresses. Text in LaTeX is escaped, and
the signs that our tables have are commands; other scripts than Latin need lualatex or xelatex.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from learn.reporting.canvas import FORMATS
from learn.reporting.sections import Section, Table
from store import atomic

LONG = 45  # rows of a table that fits on a page
MOST_LETTERS = 60
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "→": r"$\rightarrow$", "\u2212": r"$-$", "·": r"$\cdot$", "…": r"\dots{}",
    "≤": r"$\leq$", "≥": r"$\geq$", "\u00d7": r"$\times$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "\u00a0": "~", '"': "''",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?( ± [\d.]+)?|")


def export(directory: Path, sections: Sequence[Section], in_short: Sequence[Table] = ()) -> int:
    """Write all of it into a new directory, which appears whole or not at all; the number of files.

    Raises:
        OSError: the directory is there with files in it, or the disk refused.
    """
    with atomic.directory(directory) as staged:
        for name in ("figures", "tables"):
            (staged / name).mkdir()
        written = 0
        for name, data in _files(sections, in_short):
            (staged / name).write_bytes(data)
            written += 1
    return written


def _files(sections: Sequence[Section], in_short: Sequence[Table]) -> Iterator[tuple[str, bytes]]:
    taken: set[str] = set()
    for table in in_short:
        yield from _table_files(_free("in-short", taken), table)
    for section in sections:
        for figure in section.figures:
            title = f"{section.key}-{_slug(figure.title)}"
            for drawing in figure.drawings:
                several = len(figure.drawings) > 1
                part = f"{title}-{_slug(drawing.caption.title)}" if several else title
                name = _free(part, taken)
                for form in FORMATS:
                    yield f"figures/{name}.{form}", drawing.as_file(form)
            for table in figure.tables:
                same = _slug(table.caption) == _slug(figure.title) or len(figure.tables) == 1
                part = title if same else f"{title}-{_slug(table.caption)}"
                yield from _table_files(_free(f"{part} table", taken), table)


def _table_files(name: str, table: Table) -> Iterator[tuple[str, bytes]]:
    name = name.removesuffix(" table")
    yield f"tables/{name}.csv", as_csv(table).encode()
    yield f"tables/{name}.tex", as_latex(table).encode()


def as_csv(table: Table) -> str:
    """The table with its header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return out.getvalue()


def as_latex(table: Table) -> str:
    """A booktabs tabular, or a longtable of many rows; columns of numbers stand to the right."""
    columns = "".join(
        "r" if i and all(_NUMBER.fullmatch(row[i]) for row in table.rows) else "l"
        for i in range(len(table.columns))
    )
    long = len(table.rows) > LONG
    kind = "longtable" if long else "tabular"
    head = " & ".join(latex(name) for name in table.columns) + r" \\"
    body = [" & ".join(latex(cell) for cell in row) + r" \\" for row in table.rows]
    packages = "booktabs,longtable" if long else "booktabs"
    return "\n".join(
        [
            f"% {_one_line(table.caption)}",
            f"% needs \\usepackage{{{packages}}}",
            f"\\begin{{{kind}}}{{{columns}}}",
            r"\toprule", head, r"\midrule", *([r"\endhead"] if long else []), *body,
            r"\bottomrule", f"\\end{{{kind}}}", "",
        ]
    )  # fmt: skip


def latex(text: str) -> str:
    """The text with nothing in it that LaTeX would take for a command."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in _one_line(text))
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _one_line(text: str) -> str:
    """The text without line ends and other control characters, which could end a comment."""
    return "".join(" " if unicodedata.category(c)[0] in "CZ" and c != "\u00a0" else c for c in text)


def _slug(text: str) -> str:
    """The text as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("→", "-to-"))[:MOST_LETTERS].strip("-")


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        base, space, kind = name.partition(" ")
        found = f"{base}-{number}{space}{kind}"
    taken.add(found)
    return found
