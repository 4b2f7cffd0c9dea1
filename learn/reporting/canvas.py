"""What a drawing is painted on: the page, whose colours and words it takes, or a paper's column.

On the page, colours are drawn as stand-ins and then become CSS variables (`--ink`, `--s0` …), so
that one drawing serves light and dark, and text is text. In a paper they are what the page has in
light, at the width of a column of 3.35 inches, or of both where a drawing is wide.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 360, 270  # pixels at which text has its size
WIDE = 760  # of a drawing that needs the whole page
SERIES = 8
FORMATS = ("svg", "pdf", "png")
COLUMN_INCHES, BOTH_INCHES = 3.35, 7.0
PAPER_POINTS = 8.0  # of text
DOTS_AN_INCH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colours and sizes."""

    ink: str
    muted: str
    grid: str
    paper: str
    series: tuple[str, ...]
    points: float  # of text
    legends: bool  # does each drawing hold its own?


_STAND_INS = ("#0a0b0c", "#0a0b0d", "#0a0b0e", "#0a0b0f")
PAGE = Look(
    ink=_STAND_INS[0], muted=_STAND_INS[1], grid=_STAND_INS[2], paper=_STAND_INS[3],
    series=tuple(f"#0b0c{i:02x}" for i in range(SERIES)), points=12.0, legends=False,
)  # fmt: skip
PAPER = Look(
    ink="#1b1f24", muted="#57606a", grid="#d9dde2", paper="#ffffff",
    series=(
        "#0a6ab5", "#c4500a", "#06795b", "#a03a86", "#8a6100", "#0f7587", "#5b4fc0", "#6b6b6b",
    ),
    points=PAPER_POINTS, legends=True,
)  # fmt: skip
_VARIABLES = dict(zip(_STAND_INS, ("--ink", "--muted", "--grid", "--paper"), strict=True)) | {
    colour: f"--s{i}" for i, colour in enumerate(PAGE.series)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """The name and description of a drawing, for those who do not see it; `key` begins its ids."""

    key: str
    title: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of a legend: what a colour, a dash and a marker, or a hatch, stand for."""

    name: str
    colour: int
    marker: str = ""
    dash: int = 0
    hatch: int = 0
    kind: str = "line"  # or bar, or point


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """A figure with one plot, and how it looks."""

    figure: "Figure"
    axes: "Axes"
    look: Look

    def size(self, points: float | int) -> float:
        """A size of text, given at the page's 12."""
        return points * self.look.points / PAGE.points

    def colour(self, number: int) -> str:
        """The colour of that series; they come again."""
        return self.look.series[number % SERIES]


Paint = Callable[[Canvas], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """An SVG element with its caption, which can be painted again for a paper."""

    caption: Caption
    svg: str
    paint: Paint = field(compare=False, repr=False)
    height: int  # pixels on the page
    legend: tuple[Entry, ...] = ()
    wide: bool = False

    def as_file(self, form: str) -> bytes:
        """The drawing for a column of a paper, as `svg`, `pdf` or `png`."""
        import matplotlib as mpl

        inches = BOTH_INCHES if self.wide else COLUMN_INCHES
        rows = len(self.legend) if len(self.legend) > 1 else 0
        scale = inches / (WIDE if self.wide else WIDTH)
        tall = self.height * scale + rows * 1.6 * PAPER_POINTS / 72
        out = BytesIO()
        with _canvas(PAPER, inches, tall) as canvas:
            self.paint(canvas)
            salt: Any = {"svg.hashsalt": self.caption.key, "pdf.fonttype": 42}
            nothing: dict[str, Any] = {
                "svg": {"Date": None, "Creator": None},
                "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
                "png": {"Software": None},
            }
            with mpl.rc_context(salt):
                canvas.figure.savefig(
                    out, format=form, dpi=DOTS_AN_INCH, metadata=nothing[form],
                    facecolor="white" if form == "png" else "none",
                )  # fmt: skip
        return out.getvalue()


def draw(
    caption: Caption, paint: Paint, *, height: int = HEIGHT, legend: tuple[Entry, ...] = (),
    wide: bool = False,
) -> Drawing:  # fmt: skip
    """The drawing that `paint` paints, for the page."""
    import matplotlib as mpl

    out = StringIO()
    with _canvas(PAGE, (WIDE if wide else WIDTH) / 72, height / 72) as canvas:
        paint(canvas)
        with mpl.rc_context({"svg.hashsalt": caption.key}):
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            canvas.figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return Drawing(
        caption=caption, svg=_as_page_element(out.getvalue(), caption), paint=paint,
        height=height, legend=legend, wide=wide,
    )  # fmt: skip


@contextmanager
def _canvas(look: Look, wide: float, tall: float) -> Iterator[Canvas]:
    """A figure of that size in inches; no pyplot, so nothing is global."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_style(look)), warnings.catch_warnings():
        # The page's fonts have letters that matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(wide, tall), layout="constrained")
        yield Canvas(figure=figure, axes=figure.add_subplot(), look=look)


def _style(look: Look) -> Any:
    part = look.points / PAGE.points
    return {
        "svg.fonttype": "none",
        "font.size": look.points,
        "text.parse_math": False,  # a class may be called $x$
        "text.color": look.ink,
        "axes.labelcolor": look.ink,
        "axes.edgecolor": look.muted,
        "axes.facecolor": "none",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": look.grid,
        "grid.linewidth": 0.8 * part,
        "xtick.color": look.muted,
        "ytick.color": look.muted,
        "xtick.labelcolor": look.ink,
        "ytick.labelcolor": look.ink,
        "legend.frameon": False,
        "legend.fontsize": look.points,
        "lines.linewidth": 1.6 * part,
        "lines.markersize": 5.5 * part,
        "hatch.linewidth": 0.6,
    }


def _as_page_element(svg: str, caption: Caption) -> str:
    """The drawing as an element of a page: ids of its own, the page's colours, a name."""
    key = caption.key
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None, "matplotlib gives a viewBox"
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", body).replace("xlink:href", "href")
    body = re.sub(r"#0[ab]0[bc][0-9a-f]{2}", lambda m: f"var({_VARIABLES[m[0]]})", body)
    body = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", "\n", body)
    _, _, width, height = (float(x) for x in box[1].split())
    return (
        f'<svg viewBox="{box[1]}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(caption.title)}</title>'
        f'<desc id="{key}-desc">{escape(caption.description)}</desc>{body}'
    )
