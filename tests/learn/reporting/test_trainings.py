"""Curves of a training."""

import json


def test_epochs_are_those_of_the_metrics(page, runs):
    lines = (runs["space"] / "metrics.jsonl").read_text().splitlines()
    epochs = [event for event in map(json.loads, lines) if event["event"] == "epoch"]
    cells = page[0].rows("Epochs")
    assert len(cells) == len(epochs) == 4
    for cell, epoch in zip(cells, epochs, strict=True):
        assert cell["loss"] == f"{epoch['loss']:.4g}"
        assert cell["validation loss"] == f"{epoch['val_loss']:.4g}"
