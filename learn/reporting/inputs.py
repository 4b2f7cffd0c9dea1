"""The directories of `learn episodes`, `learn evaluate` and `learn train`, read back for a report.

Results of episodes are put together where they answer one question: the same clips, classes and
sampling. Within a question they must be of the same episodes, or nobody may compare them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn.evaluation.results import Saved, load_result
from learn.fewshot.tasks import CLASSIC
from learn.inference.selection import NONE, modalities_of
from learn.training.runs import load_run
from store.errors import InputError, MissingFile

# What does not tell one question from another.
_NOT_OF_THE_QUESTION = {
    "store", "manifest", "features", "classes", "clips", "dropped", "draws", "sha256", "episodes",
    "seed", "until_ci_reached",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One row of a result, with the directory it came from."""

    run: Path
    told: Mapping[str, Any]  # as `learn.evaluation.results.Result`
    answers: Mapping[str, Any] | None  # as `learn.evaluation.confusion.Answers`, if it was kept
    features: Mapping[str, str]

    @property
    def mode(self) -> str:
        one, other = self.told["support"], self.told["query"]
        return str(one if one == other else f"{one}→{other}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """Results on the same episodes of the same clips."""

    sampling: Mapping[str, Any]  # of the first result
    results: tuple[Saved, ...]
    rows: tuple[Row, ...]

    @property
    def modes(self) -> list[str]:
        return list(dict.fromkeys(row.mode for row in self.rows))

    @property
    def shots(self) -> list[int]:
        return sorted({row.told["shots"] for row in self.rows})

    @property
    def measure(self) -> str:
        """What the numbers are, for people."""
        measure = str(self.sampling.get("measure", "accuracy"))
        return {"map": "mAP"}.get(measure, measure.replace("_", " "))

    @property
    def chance(self) -> float | None:
        """What guessing gives; None where that is not one over the number of ways."""
        other = self.sampling.get("uneven") or self.measure != "accuracy"
        return None if other else 1 / self.sampling["ways"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluated:
    """A directory of `learn evaluate -o`."""

    path: Path
    told: Mapping[str, Any]  # as `learn.evaluation.evaluate.Evaluation`


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A directory of `learn train -o`, finished or not."""

    path: Path
    finished: bool
    recipe: Mapping[str, Any]
    provenance: Mapping[str, Any]
    epochs: tuple[Mapping[str, Any], ...]  # the lines of metrics.jsonl that are of epochs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """All that a report is about, and what its directories and projections are called in it."""

    questions: tuple[Question, ...]
    evaluations: tuple[Evaluated, ...]
    trainings: tuple[Trained, ...]
    names: Mapping[str, str]

    def projection(self, path: str) -> str:
        return "stored vectors" if path == NONE else self.names[path]


def gather(runs: Sequence[str | Path]) -> Gathered:
    """Read every directory once.

    Raises:
        MissingFile: nothing is there.
        InputError: a directory of another kind, one that was changed, or results of one question
            on different episodes.
    """
    saved: list[Saved] = []
    evaluations: list[Evaluated] = []
    trainings: list[Trained] = []
    for run in dict.fromkeys(map(Path, runs)):
        if (run / "config.json").is_file():
            trainings.append(_training(run))
        elif (run / "evaluation.json").is_file():
            evaluations.append(_evaluation(run))
        elif (run / "result.json").is_file():
            saved.append(load_result(run))
        elif run.is_dir():
            raise InputError(
                f"{run} holds no result; a RUN is what learn episodes, learn evaluate or learn "
                "train wrote with -o"
            )
        else:
            raise MissingFile(f"no directory {run}; a RUN is what learn … -o RUN wrote")
    rows = [row for one in saved for row in one.result["results"]]
    rows += [row for one in evaluations for row in one.told["results"]]
    projections = [Path(row["projection"]) for row in rows if row["projection"] != NONE]
    paths = [*projections, *(x.path for x in saved), *(x.path for x in evaluations)]
    paths += [x.path for x in trainings]
    return Gathered(
        questions=_questions(saved),
        evaluations=tuple(evaluations),
        trainings=tuple(trainings),
        names=_names(paths),
    )


def _questions(saved: Sequence[Saved]) -> tuple[Question, ...]:
    found: dict[str, list[Saved]] = {}
    for one in saved:
        sampling = one.result["episodes"]
        told = {key: sampling[key] for key in sampling if key not in _NOT_OF_THE_QUESTION}
        told = {"task": CLASSIC, "groups": "within", **told}  # older results do not say
        found.setdefault(json.dumps(told, sort_keys=True), []).append(one)
    for together in found.values():
        _same_episodes(together)
    return tuple(
        Question(
            sampling=together[0].result["episodes"],
            results=tuple(together),
            rows=_once(row for one in together for row in _rows(one)),
        )
        for together in found.values()
    )


def _same_episodes(saved: Sequence[Saved]) -> None:
    drawn: dict[int, tuple[str, Path]] = {}
    for one in saved:
        for draw in one.result["episodes"]["draws"]:
            digest, path = drawn.setdefault(draw["shots"], (draw["sha256"], one.path))
            if digest != draw["sha256"]:
                raise InputError(
                    f"{one.path} and {path} have different {draw['shots']}-shot episodes of the "
                    "same clips; score one of them again with --episodes-file "
                    f"{path / 'episodes.safetensors'}, or report them apart"
                )


def _once(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Without what a directory repeats of another, as when only curves were added to it."""
    found: dict[str, Row] = {}
    for row in rows:
        told = {key: value for key, value in row.told.items() if key != "seconds"}
        of = {m: row.features[m] for m in modalities_of([(told["support"], told["query"])])}
        found.setdefault(json.dumps([told, of], sort_keys=True), row)
    return tuple(found.values())


def _rows(saved: Saved) -> list[Row]:
    answers = saved.answers or [None] * len(saved.result["results"])
    features = saved.result["episodes"]["features"]
    return [
        Row(run=saved.path, told=told, answers=of, features=features)
        for told, of in zip(saved.result["results"], answers, strict=True)
    ]


def _evaluation(run: Path) -> Evaluated:
    try:
        told = json.loads((run / "evaluation.json").read_text())
        for row in told["results"]:
            _ = [row[key] for key in ("label", "projection", "support", "query", "clips")]
            _ = [row[key] for key in ("metrics", "classes", "untrained", "seen_in_training")]
        if not told["results"] or not isinstance(told["data"], dict):
            raise ValueError("it has no results")  # noqa: TRY301
    except (OSError, KeyError, TypeError, ValueError) as fault:
        raise InputError(f"{run} is not a result of learn evaluate ({fault})") from None
    return Evaluated(path=run, told=told)


def _training(run: Path) -> Trained:
    finished = (run / "done.json").is_file()
    if finished:
        load_run(run)  # every file is what the training wrote
    try:
        config = json.loads((run / "config.json").read_text())
        provenance = json.loads((run / "provenance.json").read_text())
        text = (run / "metrics.jsonl").read_text()
        # A training that is under way may be in the middle of its last line.
        events = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        epochs = tuple(event for event in events if event["event"] == "epoch")
        _ = [(epoch["loss"], epoch["val_loss"], epoch["val_accuracy"]) for epoch in epochs]
    except (OSError, KeyError, TypeError, ValueError) as fault:
        raise InputError(f"{run} is not a training we can read ({fault})") from None
    return Trained(path=run, finished=finished, recipe=config, provenance=provenance, epochs=epochs)


def _names(paths: Sequence[Path]) -> dict[str, str]:
    """The last part of each path, or all of it where two would be called the same."""
    last: dict[str, set[str]] = {}
    for path in paths:
        last.setdefault(path.name, set()).add(str(path.resolve()))
    return {str(path): path.name if len(last[path.name]) == 1 else str(path) for path in paths}
