"""The directories of `learn episodes`, `learn evaluate` and `learn train`, read back for a report.

Results of episodes are put together where they answer one question: the same clips, classes and
sampling. Within a question they must be of the same episodes, or nobody may compare them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learn.data import records
from learn.evaluation.results import Saved, load_result
from learn.evaluation.wording import CLASSIC
from learn.inference.selection import NONE, modalities_of
from learn.reporting.asked import check_result
from learn.training.runs import load_run
from store.errors import InputError

MAX_METRICS_BYTES = 1 << 30  # a line per step

# Keys that differ between results of one question.
_NOT_OF_THE_QUESTION = {
    "store", "manifest", "features", "classes", "clips", "dropped", "draws", "sha256", "episodes",
    "seed", "until_ci_reached", "scarce_text",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One row of a result of `learn episodes`, with the directory it came from."""

    run: Path
    head: str
    projection: str
    support: str
    query: str
    shots: int
    episodes: int
    accuracy: float
    ci95: float | None
    ci_method: str
    untrained: bool
    transductive: bool
    centred_by: str
    seen_in_training: int
    trained: str  # "" in older results, which do not say
    parts: Mapping[str, Any]
    fusion: str  # "" where there is one sense, and in older results
    weights: Mapping[str, Any]  # of a fusion that weighs: by feature, mean and sd
    prior: Mapping[str, Any]  # its value by feature, and where it is from
    tally: Mapping[str, Any] | None  # as in answers.json, where it was kept
    guard: str = ""  # on or off; "" of stored vectors, and in older results
    projected: Mapping[str, Any] = field(default_factory=dict)  # how much a projection counts

    @property
    def mode(self) -> str:
        """The mode of support and query, or "support→query"."""
        return self.support if self.support == self.query else f"{self.support}→{self.query}"

    @property
    def low(self) -> float:
        """The lower end of the accuracy's interval."""
        return self.accuracy - (self.ci95 or 0)

    @property
    def recalls(self) -> dict[str, float]:
        """The share of right answers by class; empty where answers were not kept."""
        classes = self.tally["classes"] if self.tally else ()
        return {c["name"]: c["right"] / c["asked"] for c in classes}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """Results on the same episodes of the same clips."""

    sampling: Mapping[str, Any]  # of the first result
    results: tuple[Saved, ...]
    rows: tuple[Row, ...]

    @property
    def modes(self) -> list[str]:
        """Every mode of the rows, in their order."""
        return list(dict.fromkeys(row.mode for row in self.rows))

    @property
    def shots(self) -> list[int]:
        """Every number of shots, ascending."""
        return sorted({row.shots for row in self.rows})

    @property
    def measure(self) -> str:
        """The name of the numbers, for people."""
        measure = str(self.sampling.get("measure", "accuracy"))
        return {"map": "mAP"}.get(measure, measure.replace("_", " "))

    @property
    def chance(self) -> float | None:
        """The accuracy of guessing; None where that is not one over the number of ways."""
        varies = self.sampling.get("uneven") or self.measure != "accuracy"
        ways = self.sampling.get("ways")
        return None if varies or not isinstance(ways, int) or ways < 1 else 1 / ways


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedEvaluation:
    """A directory of `learn evaluate -o`."""

    path: Path
    record: Mapping[str, Any]  # as `learn.evaluation.evaluate.Evaluation`
    answers: tuple[Mapping[str, Any], ...] = ()  # of its rows; none of an older one

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The protocol's findings."""
        rows: Sequence[Mapping[str, Any]] = self.record["results"]
        return rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedTraining:
    """A directory of `learn train -o`, finished or not."""

    path: Path
    finished: bool
    recipe: Mapping[str, Any]
    provenance: Mapping[str, Any]
    epochs: tuple[Mapping[str, Any], ...]  # the lines of metrics.jsonl that are of epochs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportInputs:
    """The results and trainings of a report, and the names of directories and projections."""

    questions: tuple[Question, ...]
    evaluations: tuple[SavedEvaluation, ...]
    trainings: tuple[SavedTraining, ...]
    names: Mapping[str, str]

    @property
    def rows(self) -> Iterator[Row]:
        """The rows of all questions."""
        return (row for question in self.questions for row in question.rows)

    @property
    def findings(self) -> Iterator[Mapping[str, Any]]:
        """The rows of all evaluations."""
        return (row for evaluation in self.evaluations for row in evaluation.rows)

    def run_name(self, path: Path) -> str:
        """The name of a directory in this report."""
        return self.names[str(path)]

    def projection_name(self, path: str) -> str:
        """The name of a projection in this report."""
        return "stored vectors" if path == NONE else self.names[path]


def read_inputs(runs: Sequence[str | Path]) -> ReportInputs:
    """Read every directory once.

    Raises:
        MissingFile: nothing is there.
        InputError: a directory of another kind, one that was changed, or results of one question
            on different episodes.
    """
    saved: list[Saved] = []
    evaluations: list[SavedEvaluation] = []
    trainings: list[SavedTraining] = []
    for run in dict.fromkeys(map(Path, runs)):
        if (run / "config.json").is_file():
            trainings.append(_read_training(run))
        elif (run / "evaluation.json").is_file():
            evaluations.append(_read_evaluation(run))
        else:
            check_result(run)
            saved.append(load_result(run))
    rows = [row for result in saved for row in result.result["results"]]
    rows += [row for evaluation in evaluations for row in evaluation.rows]
    projections = [Path(row["projection"]) for row in rows if row["projection"] != NONE]
    directories = [result.path for result in saved]
    directories += [evaluation.path for evaluation in evaluations]
    directories += [training.path for training in trainings]
    return ReportInputs(
        questions=_questions(saved),
        evaluations=tuple(evaluations),
        trainings=tuple(trainings),
        names=_names([*projections, *directories]),
    )


def _questions(saved: Sequence[Saved]) -> tuple[Question, ...]:
    by_sampling: dict[str, list[Saved]] = {}
    for result in saved:
        sampling = result.result["episodes"]
        asked = {key: sampling[key] for key in sampling if key not in _NOT_OF_THE_QUESTION}
        asked = {"task": CLASSIC, "groups": "within", **asked}  # older results do not say
        by_sampling.setdefault(json.dumps(asked, sort_keys=True), []).append(result)
    for together in by_sampling.values():
        _refuse_other_episodes(together)
    return tuple(
        Question(
            sampling=together[0].result["episodes"],
            results=tuple(together),
            rows=_rows(together),
        )
        for together in by_sampling.values()
    )


def _refuse_other_episodes(saved: Sequence[Saved]) -> None:
    drawn: dict[int, tuple[str, Path]] = {}
    for result in saved:
        for draw in result.result["episodes"]["draws"]:
            digest, path = drawn.setdefault(draw["shots"], (draw["sha256"], result.path))
            if digest != draw["sha256"]:
                raise InputError(
                    f"{result.path} and {path} have different {draw['shots']}-shot episodes of the "
                    "same clips; report them apart, or score one again: learn episodes DIR "
                    f"--episodes-file {path / 'episodes.safetensors'} -o RUN"
                )


def _rows(saved: Iterable[Saved]) -> tuple[Row, ...]:
    """The rows of results, without what one repeats of another, as when curves were added."""
    rows: dict[str, Row] = {}
    for result in saved:
        records = result.result["results"]
        features = result.result["episodes"]["features"]
        tallies = result.tallies or [None] * len(records)
        for record, tally in zip(records, tallies, strict=True):
            compared = {key: value for key, value in record.items() if key != "seconds"}
            modalities = modalities_of([(record["support"], record["query"])])
            if missing := sorted(modalities - features.keys()):
                raise InputError(
                    f"{result.path} has results of {missing[0]} and names no such feature; "
                    "score it again"
                )
            scored = {modality: features[modality] for modality in modalities}
            key = json.dumps([compared, scored], sort_keys=True)
            if key not in rows:
                rows[key] = _row(result.path, record, tally)
    return tuple(rows.values())


def _row(run: Path, record: Mapping[str, Any], tally: Mapping[str, Any] | None) -> Row:
    return Row(
        run=run,
        head=record["head"],
        projection=record["projection"],
        support=record["support"],
        query=record["query"],
        shots=record["shots"],
        episodes=record["episodes"],
        accuracy=record["accuracy"],
        ci95=record["ci95"],
        ci_method=record["ci_method"],
        untrained=record["untrained"],
        transductive=record["transductive"],
        centred_by=record["centred_by"],
        seen_in_training=record["seen_in_training"],
        trained=record.get("trained", ""),
        parts=record.get("parts", {}),
        fusion=record.get("fusion", ""),
        weights=record.get("weights") or {},
        prior=record.get("prior") or {},
        tally=tally,
        guard=record.get("guard", ""),
        projected=record.get("projected") or {},
    )


def _read_evaluation(run: Path) -> SavedEvaluation:
    record: records.EvaluationRecord
    try:
        record = records.read(run / "evaluation.json", records.EvaluationRecord)
    except InputError as error:
        raise InputError(f"{run} is not a result of learn evaluate ({error})") from None
    if not record["results"]:
        raise InputError(f"{run} is not a result of learn evaluate (it has no results)")
    answers: list[records.EvaluatedAnswers] = []
    if (run / "answers.json").is_file():
        answers = records.read(run / "answers.json", list[records.EvaluatedAnswers])
    return SavedEvaluation(path=run, record=record, answers=tuple(answers))


def _read_training(run: Path) -> SavedTraining:
    finished = (run / "done.json").is_file()
    if finished:
        load_run(run)  # every file is what the training wrote
    recipe = records.read(run / "config.json", records.TrainingConfig)
    provenance = records.read(run / "provenance.json", records.Provenance)
    metrics = run / "metrics.jsonl"
    text = records.read_bytes(metrics, limit=MAX_METRICS_BYTES)
    # A training that is under way may be in the middle of its last line.
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    events = records.checked(
        [records.parse(line, metrics) for line in lines], list[dict[str, Any]], metrics
    )
    ends = [event for event in events if event.get("event") == "epoch"]
    epochs = tuple(records.checked(ends, list[records.Epoch], metrics))
    return SavedTraining(
        path=run, finished=finished, recipe=recipe, provenance=provenance, epochs=epochs
    )


def _names(paths: Sequence[Path]) -> dict[str, str]:
    """The last part of each path, or all of it where two would be called the same."""
    last: dict[str, set[str]] = {}
    for path in paths:
        last.setdefault(path.name, set()).add(str(path.resolve()))
    return {str(path): path.name if len(last[path.name]) == 1 else str(path) for path in paths}
