"""`learn report`: what runs found, in one page that needs neither a network nor a script."""

import base64
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from learn.reporting import projection_2d
from learn.reporting.caveats import Stamp, stamps
from learn.reporting.episodes import of_question
from learn.reporting.inputs import Gathered, Question, gather
from learn.reporting.maps import of_maps
from learn.reporting.provenance import provenance
from learn.reporting.sections import Section
from learn.reporting.stores import Stores
from learn.reporting.trainings import of_evaluation, of_training
from store.errors import InputError, MissingFile

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Where a clip's picture may come from."""

    root: Path
    path: str
    start_seconds: float
    end_seconds: float


Thumbnails = Callable[[Sequence[Media]], Sequence[bytes | None]]  # JPEGs


def report(
    runs: Sequence[str | Path],
    output: str | Path,
    *,
    title: str = "",
    map_by: str = projection_2d.METHODS[0],
    media: Sequence[str | Path] = (),
    thumbnails: Thumbnails | None = None,
) -> dict[str, Any]:
    """Write the page and say what is in it.

    `media` are directories that the paths of manifests are relative to; `thumbnails` makes pictures
    of clips found there.

    Raises:
        MissingFile, InputError: a directory that is no run, or was changed; results that cannot
            stand side by side; an output that exists.
        ConfigError: no such map.
    """
    projection_2d.check(map_by)
    output = Path(output)
    if not runs:
        raise InputError("no RUN; name a directory that learn episodes, evaluate or train wrote")
    if output.exists():
        raise InputError(f"{output} exists; name a new file with -o, or remove it")
    if not output.parent.is_dir():
        raise MissingFile(f"no directory {output.parent} to write {output.name} in; make it first")
    for folder in map(Path, media):
        if not folder.is_dir():
            raise MissingFile(f"no directory {folder}; --media is where the clips lie")
    known = gather(runs)
    stores = Stores(known)
    found = _sections(known, stores, map_by)
    stamped = stamps(known, stores.pretraining())
    pictures = _pictures(known, found, stores, list(map(Path, media)), thumbnails)
    found.append(provenance(known, stores))
    page = render(title or _title(known), found, stamped, pictures)
    _write(output, page)
    figures = [drawing for one in found for figure in one.figures for drawing in figure.drawings]
    return {
        "output": str(output),
        "bytes": len(page.encode()),
        "runs": {
            "episodes": sum(len(question.results) for question in known.questions),
            "evaluate": len(known.evaluations),
            "train": len(known.trainings),
        },
        "sections": [one.title for one in found],
        "figures": len(figures),
        "thumbnails": len(pictures),
        "stamps": list(dict.fromkeys(stamp.kind for stamp in stamped)),
        "notes": [note for one in found for note in one.notes],
    }


def render(
    title: str,
    found: Sequence[Section],
    stamped: Sequence[Stamp],
    pictures: Mapping[str, str],
) -> str:
    """The page as text. `pictures` are data URLs by clip id."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("learn.reporting"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(
        title=title,
        sections=found,
        stamps=stamped,
        pictures=pictures,
        version=version("microshot"),
    )


def _title(known: Gathered) -> str:
    stores = dict.fromkeys(_store_name(question) for question in known.questions)
    if stores:
        return f"Few-shot results on {', '.join(stores)}"
    return "Evaluation" if known.evaluations else "Training"


def _store_name(question: Question) -> str:
    of = question.sampling.get("store")
    return Path(of).name if of else question.results[0].path.name


def _sections(known: Gathered, stores: Stores, map_by: str) -> list[Section]:
    found = []
    for number, question in enumerate(known.questions):
        title = _question_title(question, known)
        section = of_question(question, known, f"q{number}", title)
        if map_by != "none":
            section.figures.extend(of_maps(question, known, f"q{number}", map_by, section.notes))
        found.append(section)
    for number, evaluated in enumerate(known.evaluations):
        found.append(of_evaluation(evaluated, known, f"e{number}"))
    for number, trained in enumerate(known.trainings):
        found.append(of_training(trained, known, f"t{number}"))
    return found


def _question_title(question: Question, known: Gathered) -> str:
    """The store, and whatever else tells this question from the others."""
    name = _store_name(question)
    others = [one for one in known.questions if one is not question and _store_name(one) == name]
    told = question.sampling
    texts = {
        "label": f"column {told['label']}",
        "split": f"split {told['split']}",
        "ways": f"{told['ways']}-way",
        "queries": f"{told['queries']} queries",
        "group": "groups apart" if told["group"] else "groups ignored",
        "groups": f"groups {told.get('groups', 'within')}",
        "clips": f"{told['clips']} clips",
    }
    differing = [
        text
        for key, text in texts.items()
        if any(one.sampling.get(key) != told.get(key) for one in others)
    ]
    return ", ".join([name, *differing])


def _pictures(
    known: Gathered,
    found: Sequence[Section],
    stores: Stores,
    roots: Sequence[Path],
    thumbnails: Thumbnails | None,
) -> dict[str, str]:
    """A picture of every clip that a confused pair shows, where its media file is still there."""
    shown = dict.fromkeys(
        clip.clip_id for section in found for one in section.confused for pair in one.pairs
        for clip in pair.clips
    )  # fmt: skip
    if thumbnails is None or not shown:
        return {}
    wanted: dict[str, Media] = {}
    for path, named, _ in stores.told():
        table = stores.manifest(path, named)
        if table is None:
            continue
        own = [table.root] if table.root else []
        place = {clip: i for i, clip in enumerate(table.clip_ids)}
        for clip in shown:
            if clip in wanted or clip not in place:
                continue
            i = place[clip]
            for root in (*roots, *own):
                if (root / table.paths[i]).is_file():
                    wanted[clip] = Media(
                        root=root,
                        path=table.paths[i],
                        start_seconds=float(table.start_seconds[i]),
                        end_seconds=float(table.end_seconds[i]),
                    )
                    break
    made = zip(wanted, thumbnails(list(wanted.values())), strict=True)
    pictures = {
        clip: f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        for clip, jpeg in made
        if jpeg is not None
    }
    if len(pictures) < len(shown):
        for section in found:
            if any(
                c.clip_id not in pictures
                for one in section.confused
                for p in one.pairs
                for c in p.clips
            ):
                section.notes.append(
                    "Some clips have no picture: their media files were not found (--media DIR "
                    "says where they lie) or show nothing."
                )
    return pictures


def _write(output: Path, page: str) -> None:
    """The file appears whole or not at all."""
    handle, unfinished = tempfile.mkstemp(prefix=f".{output.name}-", dir=output.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        Path(unfinished).chmod(0o644)
        Path(unfinished).replace(output)
    finally:
        Path(unfinished).unlink(missing_ok=True)
