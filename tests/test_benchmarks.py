"""Benchmarks are not run here, and go on to find what they measure."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
FOUND = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


@pytest.mark.parametrize("name", FOUND)
def test_a_benchmark_finds_all_that_it_names(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__
