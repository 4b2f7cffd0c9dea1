"""The parts of a report: sections of figures, each with the table of its numbers.

Nothing here knows HTML; `report` renders sections, `plots` draws.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from learn.reporting.canvas import Entry
from learn.reporting.plots import Drawing

BARS = 60  # classes drawn; of more, the worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells of text; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Drawings that belong together, and their numbers."""

    title: str
    lead: str
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    open_tables: bool = False  # the table is all there is to see

    @property
    def legend(self) -> tuple[Entry, ...]:
        """The lines of a legend of all drawings, each once."""
        entries = tuple(dict.fromkeys(e for drawing in self.drawings for e in drawing.legend))
        return entries if len(entries) > 1 else ()

    @property
    def beside(self) -> bool:
        """Whether its tables stand beside its only drawing, where the page is wide enough."""
        return len(self.drawings) == 1 and bool(self.tables) and not self.drawings[0].wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A clip of a confused pair."""

    clip_id: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two classes that are confused."""

    truth: str
    answer: str
    times: int
    of: int
    clips: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confused:
    """The most confused pairs of one result."""

    title: str
    lead: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page with a heading of the second level."""

    key: str
    title: str
    lead: str
    figures: tuple[Figure, ...] = ()
    confused: tuple[Confused, ...] = ()
    notes: tuple[str, ...] = ()

    def add(self, *, figures: Iterable[Figure] = (), notes: Iterable[str] = ()) -> "Section":
        """The section with these after its own."""
        return replace(self, figures=(*self.figures, *figures), notes=(*self.notes, *notes))

    @property
    def shown_clips(self) -> list[str]:
        """The clips of its confused pairs, each once."""
        clips = (
            clip for confused in self.confused for pair in confused.pairs for clip in pair.clips
        )
        return list(dict.fromkeys(clip.clip_id for clip in clips))


def percent(value: float | None) -> str:
    """A share, in percent."""
    return "" if value is None else f"{100 * value:.2f}"


def number(value: float | None) -> str:
    """A number of four digits."""
    return "" if value is None else f"{value:.4g}"
