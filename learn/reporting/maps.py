"""The figure of a question's maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learn.fewshot import episode_files
from learn.inference.selection import NONE
from learn.reporting import plots, projection_2d
from learn.reporting.inputs import Question, ReportInputs
from learn.reporting.naming import mode_name
from learn.reporting.plots import Caption, Drawing
from learn.reporting.projection_2d import Map
from learn.reporting.sections import Figure, Section, Table
from learn.reporting.stores import refuse_remote
from learn.training.runs import load_run
from store.errors import MicroshotError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _NamedMap:
    """A map, and the projection whose vectors it shows."""

    projection: str  # its name in the report
    layout: Map

    @property
    def title(self) -> str:
        return f"{' and '.join(map(mode_name, self.layout.modes))}, {self.projection}"


def add_maps(
    section: Section, question: Question, inputs: ReportInputs, method: str, *, remote: bool = False
) -> Section:
    """The section with a figure of all maps of the question's vectors, and why some are not."""
    maps, notes = _maps(question, inputs, method, remote)
    figures = [_figure(maps, inputs, f"{section.key}-map", method)] if maps else []
    return section.add(figures=figures, notes=notes)


def _maps(
    question: Question, inputs: ReportInputs, method: str, remote: bool
) -> tuple[list[_NamedMap], list[str]]:
    """Each projection's maps of each store's features once, and notes of what has no map."""
    maps: list[_NamedMap] = []
    notes: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    for saved in question.results:
        sampling = saved.result["episodes"]
        if sampling.get("store") is None:
            notes.append("No map: this result does not say which store it came from.")
            continue
        if "query_store" in sampling:
            notes.append("No map: shots and queries are of two collections.")
            continue
        clips, classes = episode_files.labelled(saved.path / "episodes.safetensors")
        for projection in dict.fromkeys(row["projection"] for row in saved.result["results"]):
            key = (sampling["store"], str(sampling["features"]), projection)
            if key in seen:
                continue
            seen.add(key)
            name = inputs.projection_name(projection)
            try:
                refuse_remote(sampling["store"], remote)
                run = None if projection == NONE else load_run(Path(projection))
                layouts = projection_2d.maps(
                    sampling["store"], sampling["features"], clips, classes, run, method
                )
            except MicroshotError as error:
                notes.append(f"No map of {name}: {error}")
                continue
            maps += [_NamedMap(projection=name, layout=layout) for layout in layouts]
    return maps, notes


def _figure(maps: Sequence[_NamedMap], inputs: ReportInputs, key: str, method: str) -> Figure:
    lead = _lead(maps, method)
    if any(named.projection != inputs.projection_name(NONE) for named in maps):
        lead += " In a common space, hollow points are what is seen and filled ones what is heard."
    table = Table(
        caption="Places",
        columns=("clip", "class", "mode", "projection", "x", "y"),
        rows=tuple(row for named in maps for row in _table_rows(named)),
    )
    drawings = tuple(_drawing(named, f"{key}{i}") for i, named in enumerate(maps))
    return Figure(title="Map of the embedding", lead=lead, drawings=drawings, tables=(table,))


def _lead(maps: Sequence[_NamedMap], method: str) -> str:
    if method == "tsne":
        return "t-SNE: who is near is meant, distances between far groups and their sizes are not."
    kept = [
        f"{named.title}: {100 * named.layout.kept:.0f} %"
        for named in maps
        if named.layout.kept is not None
    ]
    return f"The two main axes (share of the variance: {'; '.join(kept)})."


def _drawing(named: _NamedMap, key: str) -> Drawing:
    drawn = named.layout
    both = len(drawn.modes) > 1
    description = (
        f"{len(drawn.clips)} points of {len(set(drawn.classes))} classes in two dimensions."
    )
    if both:
        description += f" Filled: {drawn.modes[1]}, hollow: {drawn.modes[0]}."
    caption = Caption(key=key, title=named.title, description=description)
    return plots.scatter(caption, drawn.points, drawn.classes, drawn.kinds if both else ())


def _table_rows(named: _NamedMap) -> list[tuple[str, ...]]:
    drawn = named.layout
    return [
        (clip, label, kind, named.projection, f"{x:.2f}", f"{y:.2f}")
        for clip, label, kind, (x, y) in zip(
            drawn.clips, drawn.classes, drawn.kinds, drawn.points, strict=True
        )
    ]
