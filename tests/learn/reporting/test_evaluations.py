"""Metrics of a protocol."""

import json
from pathlib import Path

from learn.reporting.evaluations import evaluation_section
from learn.reporting.inputs import ReportInputs, SavedEvaluation
from tests.learn.reporting.pages import shown


def test_metrics_are_those_of_the_protocol(page, runs):
    record = json.loads((runs["probe"] / "evaluation.json").read_text())
    cells = page[0].rows("Metrics, shares in %")
    for cell, row in zip(cells, record["results"], strict=True):
        assert cell["top1"] == shown(row["metrics"]["top1"])
        assert cell["macro_f1"] == shown(row["metrics"]["macro_f1"])
        assert cell["clips"] == str(row["clips"])


def test_classes_of_equal_recall_are_in_the_order_of_the_findings():
    def finding(query, recalls):
        classes = [{"name": name, "recall": recall} for name, recall in recalls.items()]
        return {
            "label": "label", "projection": "none", "support": query, "query": query, "clips": 4,
            "metrics": {}, "classes": classes, "untrained": False, "seen_in_training": 0,
        }  # fmt: skip

    names = [f"class{i}" for i in (3, 1, 2, 0)]
    record = {
        "protocol": "linear", "settings": {}, "data": {"split": "test"},
        "results": [finding("v", dict.fromkeys(names, 0.5) | {"class0": 0.75})],
    }  # fmt: skip
    evaluation = SavedEvaluation(path=Path("run"), record=record)
    inputs = ReportInputs(
        questions=(), evaluations=(evaluation,), trainings=(), names={"run": "run"}
    )
    _, figure = evaluation_section(evaluation, inputs, "e0").figures
    assert [row[0] for row in figure.tables[0].rows] == ["class0", "class3", "class1", "class2"]
