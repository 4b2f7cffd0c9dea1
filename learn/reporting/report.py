"""`learn report`: results of runs in one page that needs neither a network nor a script."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from learn.data.media import Pictures
from learn.reporting.asked import METHODS, check_map, check_report
from learn.reporting.caveats import Caveat, find_caveats
from learn.reporting.episodes import episodes_section
from learn.reporting.evaluations import evaluation_section
from learn.reporting.export import export
from learn.reporting.in_short import answers_in_short
from learn.reporting.inputs import ReportInputs, read_inputs
from learn.reporting.maps import add_maps
from learn.reporting.naming import page_title, question_title
from learn.reporting.pictures import (
    clip_links,
    clip_pictures,
    note_missing,
    shown_media,
)
from learn.reporting.provenance import provenance_section
from learn.reporting.sections import Section, Table
from learn.reporting.stores import Stores
from learn.reporting.trainings import training_section
from store import atomic
from store.progress import in_steps

TEMPLATE = "report.html.j2"
# matplotlib's markers as letters, for the legend of a page
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSummary:
    """The contents of a page in numbers and titles."""

    output: str
    bytes: int
    runs: Mapping[str, int]  # how many of each command
    sections: tuple[str, ...]  # their titles
    figures: int
    thumbnails: int
    files: int  # of figures and tables, beside the page
    caveats: tuple[str, ...]  # their kinds, each once
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn report --json` prints."""
        names = {"caveats": "stamps"}
        lists = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {names.get(key, key): value for key, value in lists.items()}


def report(
    runs: Sequence[str | Path],
    output: str | Path,
    *,
    title: str = "",
    map_by: str = METHODS[0],
    media: Sequence[str | Path] = (),
    thumbnails: Pictures | None = None,
    remote_stores: bool = False,
    figures: str | Path | None = None,
    link_media: bool = False,
) -> ReportSummary:
    """Write the page and say what is in it.

    `media` are directories that the paths of manifests are relative to; `thumbnails` makes pictures
    of clips found there, and with `link_media` the page links to their files, by their addresses on
    this machine. `figures` is a new directory of figures and tables for a paper. Stores in buckets,
    which results name, are read with `remote_stores` only.

    >>> learn.run_episodes(
    ...     "my_store", split="all", heads=["ridge"], shots=[1], queries=3, episodes=50
    ... ).save(Path("results"))
    >>> learn.report(["results"], "report.html", map_by="none").runs["episodes"]
    1

    Raises:
        MissingFile, InputError: a directory that is no run, or was changed; results that cannot
            stand side by side; an output that exists.
        ConfigError: no such map.
    """
    output = Path(output)
    check_map(map_by)
    check_report(runs, output, media, None if figures is None else Path(figures))
    inputs = read_inputs(runs)
    stores = Stores(inputs, remote=remote_stores)
    sections = _sections(inputs, map_by, remote_stores)
    caveats = find_caveats(inputs, stores.pretraining())
    pictures: dict[str, str] = {}
    links: dict[str, str] = {}
    found = {}
    if thumbnails is not None or link_media:
        found = shown_media(sections, stores, list(map(Path, media)))
    if link_media:
        links = clip_links(found)
    if thumbnails is not None:
        pictures = clip_pictures(found, thumbnails)
        sections = [note_missing(section, pictures) for section in sections]
    sections.append(provenance_section(inputs, stores).add(notes=stores.notes()))
    in_short = tuple(answers_in_short(inputs))
    page = render(title or page_title(inputs), sections, caveats, pictures, in_short, links)
    files = 0 if figures is None else export(Path(figures), sections, in_short)
    atomic.write_text(output, page)
    return ReportSummary(
        output=str(output),
        bytes=len(page.encode()),
        runs={
            "episodes": sum(len(question.results) for question in inputs.questions),
            "evaluate": len(inputs.evaluations),
            "train": len(inputs.trainings),
        },
        sections=tuple(section.title for section in sections),
        figures=sum(len(figure.drawings) for section in sections for figure in section.figures),
        thumbnails=len(pictures),
        files=files,
        caveats=tuple(dict.fromkeys(caveat.kind for caveat in caveats)),
        notes=tuple(note for section in sections for note in section.notes),
    )


def render(
    title: str,
    sections: Sequence[Section],
    caveats: Sequence[Caveat],
    pictures: Mapping[str, str],
    in_short: Sequence[Table] = (),
    links: Mapping[str, str] | None = None,
) -> str:
    """The page as text. `pictures` are data URLs and `links` files by clip id, `in_short` what it
    opens on, after whatever makes numbers worthless."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("learn.reporting"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(
        title=title,
        sections=sections,
        caveats=caveats,
        in_short=in_short,
        pictures=pictures,
        links=links or {},
        markers=MARKERS,
        version=version("microshot"),
    )


def _sections(inputs: ReportInputs, map_by: str, remote: bool) -> list[Section]:
    """A section for each question, evaluation and training."""
    sections = []
    for i, question in enumerate(in_steps("questions", inputs.questions, len(inputs.questions))):
        title = question_title(question, inputs)
        section = episodes_section(question, inputs, f"q{i}", title)
        if map_by != "none":
            section = add_maps(section, question, inputs, map_by, remote=remote)
        sections.append(section)
    for i, evaluation in enumerate(inputs.evaluations):
        sections.append(evaluation_section(evaluation, inputs, f"e{i}"))
    for i, training in enumerate(inputs.trainings):
        sections.append(training_section(training, inputs, f"t{i}"))
    return sections
