"""Confidence against truth: counted by hand, and what a good and a bad temperature look like."""

import numpy as np

import learn
from learn.evaluation.calibration import curve, of_probabilities


def test_bins_are_counted():
    confidence = np.array([0.05, 0.55, 0.52, 0.97, 1.0])
    right = np.array([False, True, False, True, True])
    found = curve(confidence, right)
    assert [(b.answers, b.right) for b in found.bins] == [(1, 0.0), (2, 0.5), (2, 1.0)]
    assert np.isclose(found.bins[1].confidence, 0.535)
    assert np.isclose(found.error, (0.05 + 2 * 0.035 + 2 * 0.015) / 5)


def test_the_confidence_of_a_protocol_is_its_probability():
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8]])
    found = of_probabilities(probabilities, np.array([0, 0]))
    assert [(b.confidence, b.right) for b in found.bins] == [(0.6, 1.0), (0.8, 0.0)]
    assert found.temperature is None


def test_heads_are_calibrated_on_other_episodes(filled):
    result = learn.run_episodes(
        filled, ways=4, queries=5, episodes=200, shots=(1, 3), support=("v",),
        heads=("prototypes", "ridge:power=0.5,centre=support,unit=true"),
    )  # fmt: skip
    for row in result.results:
        found = row.tally.calibration
        assert found.answers == 100 * 20
        assert found.error < 0.08  # one temperature for all
        assert sum(b.answers for b in found.bins) == found.answers
        told = sum(b.answers * b.right for b in found.bins) / found.answers
        assert abs(told - row.accuracy) < 0.06
