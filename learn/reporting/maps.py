"""The figure of a question's maps."""

from collections.abc import Iterator
from pathlib import Path

from learn.fewshot import episode_files
from learn.inference.selection import NONE
from learn.reporting import plots, projection_2d
from learn.reporting.inputs import Gathered, Question
from learn.reporting.naming import mode_name
from learn.reporting.sections import Figure, Table
from learn.training.runs import load_run
from store.errors import MicroshotError


def of_maps(
    question: Question,
    known: Gathered,
    key: str,
    method: str,
    notes: list[str],
) -> Iterator[Figure]:
    """One figure of all maps of a question's vectors."""
    drawings: list[plots.Drawing] = []
    rows: list[tuple[str, ...]] = []
    drawn: set[tuple[str, str, str]] = set()
    kept: list[str] = []
    for saved in question.results:
        told = saved.result["episodes"]
        where, features = told.get("store"), told["features"]
        if where is None:
            notes.append("No map: this result does not say which store it came from.")
            continue
        if "query_store" in told:
            notes.append("No map: shots and queries are of two collections.")
            continue
        clips, classes = episode_files.labelled(saved.path / "episodes.safetensors")
        for projection in dict.fromkeys(row["projection"] for row in saved.result["results"]):
            if (where, str(features), projection) in drawn:
                continue
            drawn.add((where, str(features), projection))
            try:
                run = None if projection == NONE else load_run(Path(projection))
                found = projection_2d.maps(where, features, clips, classes, run, method)
            except MicroshotError as error:
                notes.append(f"No map of {known.projection(projection)}: {error}")
                continue
            for one in found:
                name = known.projection(projection)
                title = f"{' and '.join(map(mode_name, one.modes))}, {name}"
                description = (
                    f"{len(one.clips)} points of {len(set(one.classes))} classes in two dimensions."
                )
                if len(one.modes) > 1:
                    description += f" Filled: {one.modes[1]}, hollow: {one.modes[0]}."
                if one.kept is not None:
                    kept.append(f"{title}: {100 * one.kept:.0f} %")
                drawings.append(
                    plots.scatter(
                        f"{key}-map{len(drawings)}", title, description, one.points, one.classes,
                        one.kinds if len(one.modes) > 1 else (),
                    )
                )  # fmt: skip
                rows += [
                    (clip, label, kind, name, f"{x:.2f}", f"{y:.2f}")
                    for clip, label, kind, (x, y) in zip(
                        one.clips, one.classes, one.kinds, one.points, strict=True
                    )
                ]
    if drawings:
        by = {
            "tsne": "t-SNE: who is near is meant, distances between far groups and their sizes are "
            "not.",
            "pca": f"The two main axes (share of the variance: {'; '.join(kept)}).",
        }[method]
        hollow = " In a common space, hollow points are what is seen and filled ones what is heard."
        both = any(row[3] != known.projection(NONE) for row in rows)
        yield Figure(
            title="Map of the embedding",
            lead=by + (hollow if both else ""),
            drawings=tuple(drawings),
            tables=(
                Table(
                    caption="Places",
                    columns=("clip", "class", "mode", "projection", "x", "y"),
                    rows=tuple(rows),
                ),
            ),
        )
