"""`learn compare`: which of several results is better, from differences on the same episodes.

Two results scored on one draw of episodes share what made each episode easy or hard, so their
difference is known far better than either of them. Its interval is taken over episodes:

    t-ddof1, normal-ddof0   as in learn/fewshot/statistics.py
    bootstrap               percentiles of the mean over episodes drawn again, with their number

Many comparisons find something by chance, so p (of the paired t test) is adjusted by Holm's method
within each draw: over all pairs where the reference is picked by its accuracy, else over the pairs
that are shown. An interval is of one comparison, unadjusted.

Episodes of one draw share clips: the answer holds for more episodes of these clips, and says
nothing of other clips or classes.

Shapes: E = episodes, R = draws of the bootstrap.

Source: Holm, 1979, "A simple sequentially rejective multiple test procedure".
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from learn.data.table import frame
from learn.evaluation.how_compared import AGAINST, METHODS, check_comparison
from learn.evaluation.results import Saved, load_result
from learn.fewshot import statistics
from store.errors import InputError
from store.progress import in_steps

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 2000
# What a result is known by, in a draw.
KEYS = ("run", "support", "query", "projection", "guard", "head", "fusion")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One row of a result, with its accuracy in every episode."""

    key: tuple[str, ...]  # the values of KEYS
    shots: int
    of_episodes: Float[np.ndarray, "E"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`b` minus `a`, on the same episodes."""

    shots: int
    a: dict[str, str]
    b: dict[str, str]
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float | None  # of the 95 % interval; None where one episode leaves it undefined
    high: float | None
    p: float
    p_adjusted: float
    verdict: str  # better, worse, same (within the margin), undecided

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON has it."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The differences between results, and how they were measured."""

    runs: tuple[str, ...]
    episodes: int
    sha256: str
    against: str
    margin: float
    ci_method: str
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn compare --json` prints."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "differences"}
        differences = [difference.to_dict() for difference in self.differences]
        return {**plain, "adjusted": "holm", "differences": differences}

    def to_pandas(self) -> "pd.DataFrame":
        """The differences as a table.

        Raises:
            ConfigError: pandas is not installed.
        """
        return frame(self.to_dict()["differences"])


def compare(
    runs: Sequence[str | Path],
    *,
    against: str = AGAINST[0],
    margin: float = 0.005,
    ci: str = METHODS[0],
    seed: int = 0,
) -> Comparison:
    """Paired differences between all results of these directories of `learn episodes -o`.

    `against`: the first result is the reference, the best one is, or every pair is shown. Where
    the interval lies within ± `margin`, two results are the same for practical purposes.

    >>> asked = {"split": "all", "shots": [1], "queries": 3, "episodes": 100}
    >>> for head in ("ridge", "nearest"):
    ...     learn.run_episodes("my_store", heads=[head], **asked).save(Path(f"results_{head}"))
    >>> compared = learn.compare(["results_ridge", "results_nearest"])
    >>> compared.episodes
    100

    Raises:
        InputError: the runs were not scored on the same episodes, or there is nothing to compare.
    """
    check_comparison(against, margin, ci)
    loaded = [load_result(Path(run)) for run in dict.fromkeys(map(str, runs))]
    _same_episodes(loaded)
    rows = [row for run in loaded for row in _rows(run)]
    differences: list[Difference] = []
    for shots in dict.fromkeys(row.shots for row in rows):
        differences += _of_draw(
            [row for row in rows if row.shots == shots], against, margin, ci, seed
        )
    if not differences:
        raise InputError(
            "one result is nothing to compare; give a second RUN, or one with several heads, "
            "modes or projections"
        )
    return Comparison(
        runs=tuple(str(run.path) for run in loaded),
        episodes=len(rows[0].of_episodes),
        sha256=loaded[0].result["episodes"]["sha256"],
        against=against,
        margin=margin,
        ci_method=ci,
        differences=tuple(differences),
    )


def _same_episodes(runs: Sequence[Saved]) -> None:
    first = runs[0]
    wanted = first.result["episodes"]["sha256"]
    for run in runs[1:]:
        if (digest := run.result["episodes"]["sha256"]) != wanted:
            raise InputError(
                f"{run.path} was scored on other episodes ({digest[:12]}…) than {first.path} "
                f"({wanted[:12]}…); score it again: learn episodes DIR --episodes-file "
                f"{first.path / 'episodes.safetensors'} -o RUN"
            )


def _rows(run: Saved) -> list[Scored]:
    """The rows of a run under their keys."""
    scored = []
    for row, of_episodes in zip(run.result["results"], run.of_episodes, strict=True):
        names = {"run": str(run.path), **{key: row.get(key, "") for key in KEYS[1:]}}
        key = tuple(names[k] for k in KEYS)
        scored.append(Scored(key=key, shots=row["shots"], of_episodes=of_episodes))
    return scored


def _of_draw(
    rows: Sequence[Scored], against: str, margin: float, ci: str, seed: int
) -> list[Difference]:
    """The differences of one draw, their p values adjusted together."""
    pairs = list(combinations(range(len(rows)), 2))
    if against == "first":
        pairs = [(0, i) for i in range(1, len(rows))]
    tested = [paired_t(rows[b].of_episodes - rows[a].of_episodes) for a, b in pairs]
    adjusted = holm(tested)
    if against == "best":
        best = max(range(len(rows)), key=lambda i: rows[i].of_episodes.mean())
        kept = [i for i, pair in enumerate(pairs) if best in pair]
        pairs = [(best, sum(pairs[i]) - best) for i in kept]
        tested, adjusted = [tested[i] for i in kept], [adjusted[i] for i in kept]
    differences = []
    tests = zip(pairs, tested, adjusted, strict=True)
    for (a, b), p, p_adjusted in in_steps("pairs", tests, len(pairs)):
        first, second = rows[a], rows[b]
        paired = second.of_episodes - first.of_episodes
        difference = float(paired.mean())
        low, high = interval(paired, ci, seed)
        differences.append(
            Difference(
                shots=first.shots,
                a=dict(zip(KEYS, first.key, strict=True)),
                b=dict(zip(KEYS, second.key, strict=True)),
                accuracy_a=float(first.of_episodes.mean()),
                accuracy_b=float(second.of_episodes.mean()),
                difference=difference,
                low=low,
                high=high,
                p=p,
                p_adjusted=p_adjusted,
                verdict=_verdict(difference, low, high, p_adjusted, margin),
            )
        )
    return differences


def _verdict(
    difference: float, low: float | None, high: float | None, p: float, margin: float
) -> str:
    """The verdict: a difference that is sure but within the margin is still called the same."""
    if low is not None and high is not None and -margin <= low and high <= margin:
        return "same"
    if p < 0.05:
        return "better" if difference > 0 else "worse"
    return "undecided"


def interval(
    values: Float[np.ndarray, "E"], method: str, seed: int = 0
) -> tuple[float | None, float | None]:
    """Both ends of the 95 % interval of the mean."""
    if method != "bootstrap":
        half, mean = statistics.ci95(values, method), float(values.mean())
        return (None, None) if half is None else (mean - half, mean + half)
    if len(values) < 2:
        return None, None
    rng = np.random.default_rng([seed, len(values)])
    means: list[float] = []
    while len(means) < RESAMPLES:  # a thousand numbers at a time for each of a few draws
        size = min(RESAMPLES - len(means), max(1, 2_000_000 // len(values)))
        indices = rng.integers(0, len(values), (size, len(values)), dtype=np.int32)
        means += values[indices].mean(1).tolist()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_t(differences: Float[np.ndarray, "E"]) -> float:
    """The two-sided p value that their mean is zero; 1 where one episode tells nothing."""
    n = len(differences)
    if n < 2 or not differences.any():
        return 1.0
    error = differences.std(ddof=1) / np.sqrt(n)
    if error == 0:
        return 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(differences.mean()) / error))


def holm(p: Sequence[float]) -> list[float]:
    """Each p adjusted for all of them."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
