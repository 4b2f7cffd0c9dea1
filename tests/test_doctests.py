"""Every public function has an example in its docstring, and the examples run."""

import doctest
import inspect
from pathlib import Path

import pytest
import torch

import extract
import learn
import store
from store import testing

PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (store, extract, learn)
    for name in package.__all__
}
# Take networks or clips that `cli.py` hands in, so that an example would be a page.
HANDED_IN = {"learn.finetune"}
FUNCTIONS = [n for n, it in PUBLIC.items() if inspect.isfunction(it) and n not in HANDED_IN]
WITH_METHODS = ("store.Feature", "store.Manifest", "learn.FewShotClassifier")
MODULES = ("store.grammar", "store.plugins")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a store, in which examples may write."""
    home = tmp_path_factory.mktemp("examples")
    testing.fill(home / "my_store", clips=120, rows=3, dim=8, classes=6, disjoint=False)
    return home


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(it, name):
        names = {
            "extract": extract, "store": store, "learn": learn, "torch": torch, "Path": Path,
            "fs": store.open("my_store"),
        }  # fmt: skip
        module = inspect.getmodule(it)
        finder = doctest.DocTestFinder(recurse=True)
        examples = [t for t in finder.find(it, name, module=module) if t.examples]
        told = []
        for example in examples:
            example.globs = {**vars(module), **names}
            runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
            runner.run(example, out=told.append)
        assert not told, "".join(told)
        return len(examples)

    return run


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example_that_runs(name, run):
    assert run(PUBLIC[name], name) == 1


@pytest.mark.parametrize("name", WITH_METHODS)
def test_examples_of_classes_run(name, run):
    assert run(PUBLIC[name], name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_modules_run(name, run):
    import importlib

    assert run(importlib.import_module(name), name)


def test_public_functions_are_found():
    assert {"store.open", "extract.load_encoder", "learn.train"} <= set(FUNCTIONS)
