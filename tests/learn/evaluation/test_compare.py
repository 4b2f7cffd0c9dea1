"""`learn compare`: differences on the same episodes, and what may be said of them."""

import json
import re

import numpy as np
import pytest
from scipy.stats import ttest_rel

import learn
from learn.commands.comparison_tables import comparison_table
from learn.evaluation.compare import holm, interval, paired_t
from learn.evaluation.results import load_result
from store.errors import ConfigError, InputError, MissingFile

FEW = {"ways": 4, "queries": 5, "episodes": 80}
HEADS = ("prototypes", "nearest", "prototypes:metric=cosine")


@pytest.fixture(scope="module")
def runs(filled, tmp_path_factory):
    """One run of several heads and modes, and another on the same episodes."""
    folder = tmp_path_factory.mktemp("runs")
    learn.run_episodes(filled, **FEW, shots=(1, 3), heads=HEADS).save(folder / "one")
    again = folder / "one" / "episodes.safetensors"
    learn.run_episodes(
        filled, episodes_file=again, heads=("ridge",), support=("av",)
    ).save(folder / "two")  # fmt: skip
    learn.run_episodes(filled, **FEW, shots=(1, 3), seed=1).save(folder / "other")
    return folder


def test_p_and_interval_are_those_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.random(50), rng.random(50) + 0.1
    expected = ttest_rel(second, first)
    assert paired_t(second - first) == pytest.approx(expected.pvalue)
    ends = expected.confidence_interval(0.95)
    assert interval(second - first, "t-ddof1") == pytest.approx((ends.low, ends.high))
    low, high = interval(second - first, "bootstrap")
    assert (low, high) == pytest.approx((ends.low, ends.high), abs=0.02)
    assert interval(second - first, "bootstrap") == (low, high)
    assert paired_t(np.zeros(9)) == 1.0
    assert paired_t(np.full(9, 0.5)) == 0.0


def test_holm_is_bonferroni_for_the_smallest_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_differences_are_taken_episode_by_episode(runs):
    comparison = learn.compare([runs / "one", runs / "two"])
    saved = [load_result(runs / name) for name in ("one", "two")]
    rows = [
        (str(run.path), row, singles)
        for run in saved
        for row, singles in zip(run.result["results"], run.of_episodes, strict=True)
        if row["shots"] == 3
    ]
    of_shots = [difference for difference in comparison.differences if difference.shots == 3]
    assert len(of_shots) == len(rows) - 1
    reference = rows[0][2]
    for difference, (path, row, singles) in zip(of_shots, rows[1:], strict=True):
        assert difference.b["run"] == path
        assert (difference.b["head"], difference.b["support"]) == (row["head"], row["support"])
        assert difference.difference == pytest.approx((singles - reference).mean())
        assert difference.accuracy_b == pytest.approx(row["accuracy"])
        assert difference.p <= difference.p_adjusted


def test_verdicts_follow_from_p_and_margin(runs):
    strict, lax = (learn.compare([runs / "one"], margin=m).differences for m in (0.0, 0.99))
    assert {difference.verdict for difference in lax} == {"same"}
    for difference in strict:
        sure = difference.p_adjusted < 0.05
        assert difference.verdict in (("better", "worse") if sure else ("undecided", "same"))
        assert (difference.verdict == "better") == (sure and difference.difference > 0)
        assert difference.low <= difference.difference <= difference.high
    assert {"better", "worse"} & {difference.verdict for difference in strict}


def test_the_best_as_reference_pays_for_having_been_picked(runs):
    best = learn.compare([runs / "one"], against="best").differences
    every = learn.compare([runs / "one"], against="all").differences
    rows = 3 * len(HEADS)
    assert len(every) == 2 * rows * (rows - 1) // 2
    assert len(best) == 2 * (rows - 1)
    assert all(difference.difference <= 0 for difference in best)
    by_names = {
        (
            difference.shots,
            *sorted((json.dumps(difference.a), json.dumps(difference.b))),
        ): difference.p_adjusted
        for difference in every
    }
    for difference in best:
        names = sorted((json.dumps(difference.a), json.dumps(difference.b)))
        assert by_names[(difference.shots, *names)] == pytest.approx(difference.p_adjusted)


def test_runs_on_other_episodes_are_refused(runs):
    with pytest.raises(
        InputError, match=r"other episodes.*--episodes-file .*safetensors"
    ) as caught:
        learn.compare([runs / "one", runs / "other"])
    assert "\n" not in str(caught.value)


def test_what_cannot_be_compared_is_one_line(runs, tmp_path):
    with pytest.raises(MissingFile, match="learn episodes DIR -o"):
        learn.compare([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="nothing to compare"):
        learn.compare([runs / "two"])
    with pytest.raises(ConfigError, match="did you mean 'best'"):
        learn.compare([runs / "one"], against="bset")
    with pytest.raises(ConfigError, match="bootstrap"):
        learn.compare([runs / "one"], ci="jackknife")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="learn episodes DIR --projection"):
        learn.compare([tmp_path / "training"])


def test_a_changed_result_is_refused(runs, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (runs / "one").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    table = np.load(changed / "accuracy.npy")
    np.save(changed / "accuracy.npy", table[::-1])
    with pytest.raises(InputError, match="changed"):
        learn.compare([changed])


def test_the_table_says_in_a_sentence_what_is_best(runs, capsys):
    result = learn.compare([runs / "one"], against="best").to_dict()
    comparison_table(result)
    printed = " ".join(capsys.readouterr().out.split())
    for shots in {row["shots"] for row in result["differences"]}:
        rows = [row for row in result["differences"] if row["shots"] == shots]
        verdicts = [row["verdict"] for row in rows]
        sure = sum(verdict in ("better", "worse") for verdict in verdicts)
        best = max(row["accuracy_a"] for row in rows)
        sentence = printed.partition(f"{shots}-shot best: ")[2].partition(" result ")[0]
        assert f", {100 * best:.1f} %; of those it is held against:" in sentence
        counts = [int(n) for n in re.findall(r"(\d+) (?:beaten|the same|undecided)", sentence)]
        assert sum(counts) == len(rows)
        assert (f"{sure} beaten" in sentence) == bool(sure)
