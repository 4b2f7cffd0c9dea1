"""Metrics of a protocol."""

import json

from tests.learn.reporting.pages import shown


def test_metrics_are_those_of_the_protocol(page, runs):
    record = json.loads((runs["probe"] / "evaluation.json").read_text())
    found = page[0].rows("Metrics, shares in %")
    for cell, row in zip(found, record["results"], strict=True):
        assert cell["top1"] == shown(row["metrics"]["top1"])
        assert cell["macro_f1"] == shown(row["metrics"]["macro_f1"])
        assert cell["clips"] == str(row["clips"])
