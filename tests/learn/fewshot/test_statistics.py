import numpy as np
import pytest
from scipy import stats

from learn.fewshot.statistics import ci95
from store.errors import ConfigError

VALUES = np.random.default_rng(0).random(37)


def test_t_is_scipys_interval():
    low, high = stats.t.interval(0.95, len(VALUES) - 1, loc=VALUES.mean(), scale=stats.sem(VALUES))
    assert ci95(VALUES, "t-ddof1") == pytest.approx((high - low) / 2, rel=1e-9)


def test_normal_is_the_formula_of_the_papers():
    deviation = np.sqrt(((VALUES - VALUES.mean()) ** 2).sum() / len(VALUES))
    assert ci95(VALUES, "normal-ddof0") == pytest.approx(1.96 * deviation / np.sqrt(len(VALUES)))


def test_one_episode_has_no_t_interval():
    assert ci95(VALUES[:1], "t-ddof1") is None
    assert ci95(VALUES[:1], "normal-ddof0") == 0


def test_an_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(2000, 8))
    covered = [abs(s.mean()) <= ci95(s, "t-ddof1") for s in samples]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_an_unknown_method_is_refused():
    with pytest.raises(ConfigError, match="t-ddof1"):
        ci95(VALUES, "t")
