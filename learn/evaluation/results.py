"""The results of `learn episodes`: rows that feed tests, tables and pages alike.

Shapes: E = episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from learn.data import records
from learn.data.clips import Clips
from learn.data.table import frame
from learn.evaluation.config import EpisodesConfig
from learn.evaluation.confusion import Tally
from learn.evaluation.how_compared import check_scored
from learn.evaluation.missing_modality import Missing
from learn.fewshot import episode_files
from learn.fewshot.tasks import Episodes
from learn.training.runs import refuse_existing
from store import atomic
from store.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "episodes_config.json"  # config.json is what tells a training's directory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """The result of one head in one pair of modes: a row of the table."""

    head: str
    projection: str
    support: str
    query: str
    ways: int
    shots: int
    queries: int
    episodes: int
    accuracy: float  # mean over episodes, 0 to 1
    ci95: float | None  # half the width
    ci_method: str
    clips: int
    seconds: float
    untrained: bool  # random weights made a feature in play
    transductive: bool
    centred_by: str
    seen_in_training: int  # clips scored here that projection or encoder was trained on
    trained: str  # the mode that the projection was trained in; "none" for stored vectors
    metric: str  # what `accuracy` is: accuracy, harmonic_mean, map
    parts: Mapping[str, Any]  # of the metric, where it has any
    fusion: str  # how both senses were joined; "" where there is one
    # Of a fusion that weighs, by feature: the mean and standard deviation over episodes.
    weights: Mapping[str, Any] | None
    prior: Mapping[str, Any] | None  # its value by feature, and where it is from
    guard: str  # on or off: stored vectors beside a projection's; "" of stored vectors
    # How much the projected side counts (mean, sd), and where that is from; or why it is bare.
    projected: Mapping[str, Any] | None
    of_episodes: Float64[np.ndarray, "E"]  # accuracy of each: rows of one call are paired
    tally: Tally

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON has it, without its single episodes and its tally."""
        left_out = ("of_episodes", "tally")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """The accuracy that a result gains when support and query may share sources."""

    head: str
    projection: str
    support: str
    query: str
    fusion: str
    shots: int
    guarded: float  # accuracy with groups apart
    mixed: float  # accuracy on other episodes of the same classes, groups ignored
    inflation: float
    ci95: float | None  # half the width, of the difference of two draws

    def to_dict(self) -> dict[str, Any]:
        """The gain as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """What one augmentation gives one head in one mode."""

    head: str
    projection: str
    support: str
    query: str
    shots: int
    episodes: int
    augment: str
    plain: float  # accuracy from the shots alone
    accuracy: float  # and with what was made of them, on the same episodes
    gain: float
    ci95: float | None  # half the width, of the paired gain

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodesResult:
    """The result of one call of `run_episodes`: rows, and the episodes they were scored on."""

    sampling: Mapping[str, Any]
    clips: Clips
    draws: Sequence[Episodes]
    results: Sequence[Result]
    inflation: Sequence[Leakage] | None = None  # where it was asked for
    missing: Sequence[Missing] | None = None  # likewise
    augmented: Sequence[Augmented] | None = None  # likewise
    config: EpisodesConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn episodes --json` prints."""
        draws = [
            {
                "shots": draw.sampling()["shots"],
                "sha256": draw.sha256,
                "classes_never_drawn": self._idle(draw),
                "classes_of_too_few_clips": self._lacking(draw),
            }
            for draw in self.draws
        ]
        digest = episode_files.digest(self.draws)
        extra = {
            "inflation": self.inflation, "missing": self.missing, "augmented": self.augmented,
        }  # fmt: skip
        return {
            "episodes": {**self.sampling, "draws": draws, "sha256": digest},
            "results": [result.to_dict() for result in self.results],
            **{
                key: [row.to_dict() for row in rows]
                for key, rows in extra.items()
                if rows is not None
            },
        }

    def to_pandas(self) -> "pd.DataFrame":
        """The results as a table.

        Raises:
            ConfigError: pandas is not installed.
        """
        return frame(self.to_dict()["results"])

    def _lacking(self, draw: Episodes) -> list[str] | None:
        """The classes with too few clips, or too few in groups kept apart; None: not known."""
        if draw.eligible is None:
            return None
        able = set(draw.eligible.tolist())
        return [name for class_id, name in enumerate(self.clips.classes) if class_id not in able]

    def _idle(self, draw: Episodes) -> list[str]:
        """The classes in no episode, for want of clips or by chance."""
        drawn = set(np.unique(draw.classes).tolist())
        return [name for class_id, name in enumerate(self.clips.classes) if class_id not in drawn]

    def save(self, run_dir: Path) -> None:
        """Write a directory that holds all of it; it appears whole or not at all.

        `result.json` is `to_dict`, `accuracy.npy` has a row of single episodes for each of its
        results (padded with NaN where draws differ in length), `answers.json` how the classes fared
        in each and which were confused, `episodes.safetensors` the episodes,
        `episodes_config.json` every setting and their digest.

        Raises:
            InputError: the directory exists.
        """
        refuse_existing(run_dir)
        with atomic.directory(run_dir, durable=True) as staged:
            atomic.write_json(staged / "result.json", self.to_dict())
            tallies = [result.tally.to_dict() for result in self.results]
            atomic.write_json(staged / "answers.json", tallies, indent=None)
            if self.config is not None:
                config = {**self.config.to_dict(), "sha256": self.config.sha256}
                atomic.write_json(staged / CONFIG, config)
            longest = max(len(result.of_episodes) for result in self.results)
            accuracy = np.full((len(self.results), longest), np.nan)
            for row, result in zip(accuracy, self.results, strict=True):
                row[: len(result.of_episodes)] = result.of_episodes
            np.save(staged / "accuracy.npy", accuracy)
            episode_files.save(staged / "episodes.safetensors", self.clips, self.draws)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saved:
    """A directory of `EpisodesResult.save`, read back."""

    path: Path
    result: Mapping[str, Any]  # as `EpisodesResult.to_dict`
    of_episodes: tuple[Float64[np.ndarray, "_"], ...]  # accuracies, for each of its results
    tallies: tuple[Mapping[str, Any], ...]  # as `Tally`; none of an older result


def load_result(run_dir: Path) -> Saved:
    """Read a directory of `learn episodes -o`.

    Raises:
        MissingFile: there is none.
        InputError: a training's directory, or files that were changed.
    """
    check_scored(run_dir)
    try:
        path = run_dir / "result.json"
        result: records.EpisodesRecord = records.read(path, records.EpisodesRecord)
        table = records.read_numbers(run_dir / "accuracy.npy")
        rows = result["results"]
        of_episodes = tuple(
            padded[: row["episodes"]] for padded, row in zip(table, rows, strict=True)
        )
        means = [row["accuracy"] for row in rows]
        sound = all(map(np.isclose, [x.mean() for x in of_episodes], means)) and bool(rows)
        tallies: tuple[records.TallyRecord, ...] = ()
        if (run_dir / "answers.json").is_file():
            tallies = tuple(records.read(run_dir / "answers.json", list[records.TallyRecord]))
            sound = sound and all(map(_square, tallies))
            accuracies = zip(map(_accuracy, tallies), means, strict=True)
            # Where episodes differ in queries, or are measured otherwise, a mean over episodes is
            # not the share of all queries.
            differs = result["episodes"].get("uneven") or "measure" in result["episodes"]
            sound = sound and (differs or all(np.isclose(a, mean) for a, mean in accuracies))
    except (InputError, OSError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{run_dir} is not a result of learn episodes ({error})") from None
    if not sound:
        raise InputError(f"{run_dir} was changed since it was written; score it again")
    return Saved(path=run_dir, result=result, of_episodes=of_episodes, tallies=tallies)


def _square(tally: records.TallyRecord) -> bool:
    """Whether the matrix, if there is one, has a row and a column for each class."""
    matrix = tally.get("matrix")
    if matrix is None:
        return True
    size = len(matrix["classes"])
    tables = matrix["times"], matrix["of"]
    return all(len(rows) == size and {len(row) for row in rows} <= {size} for rows in tables)


def _accuracy(tally: Mapping[str, Any]) -> float:
    """The share of correct predictions among all queries."""
    correct, asked = (sum(c[key] for c in tally["classes"]) for key in ("right", "asked"))
    return float(correct / asked)
