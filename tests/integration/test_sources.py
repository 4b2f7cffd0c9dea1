"""docs/sources.md: its commands are there, and in `make soak` those of `learn` and of text are run.

A row's commands stand in backticks in its second column. Recipes, plug-ins, options and settings
are looked up in every run of the suite; running them all takes minutes.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer

import store
from learn.data import class_embeddings
from learn.data.class_embeddings import ClassEmbeddings
from learn.training import recipe as recipes
from store import plugins, testing
from tests.pages import APPS, command

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "sources.md").read_text()
SPAN = re.compile(r"`((?:extract|store|learn) [a-z][^`]*)`")
FAMILIES = {
    "--head": "learn.fewshot.heads", "--protocol": "learn.evaluation.protocols",
    "--fusion": "learn.fewshot.fusions", "--sample": "extract.media.samplers",
    "--visual": "extract.encoders", "--audio": "extract.encoders",
    "--encoder": "extract.texts",
}  # fmt: skip


def rows(text):
    """The cells of every row of the page's tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "what"]


def commands(text):
    """The commands of the second column, in the page's order."""
    return [found for row in rows(text) for found in SPAN.findall(row[1])]


def faults(line):
    """What of a command does not exist, in words."""
    program, name, *words = shlex.split(line)
    there = typer.main.get_command(APPS[program]).commands
    if name not in there:
        return [f"{program} {name}"]
    known = {option for parameter in there[name].params for option in parameter.opts}
    options = [word for word in words if word.startswith("-")]
    missing = [option for option in options if option not in known]
    after = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
    for option, family in FAMILIES.items():
        spec = after.get(option, "own")
        if (program, name) != ("learn", "finetune") and spec != "own":
            plugins.check(family, plugins.parse_spec(spec, family))
    if name == "manifest":
        family = "extract.datasets.layouts"
        plugins.check(family, plugins.parse_spec(words[0], family))
    if name == "finetune":
        assert (ROOT / f"learn/finetuning/recipes/{after['--recipe']}.toml").is_file(), line
    if name in ("train", "sweep"):
        changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        recipes.load(after["--recipe"], changes)
    return missing


def test_every_row_has_a_command_that_exists_or_says_why_not():
    assert len(rows(TEXT)) > 70
    assert not [fault for line in commands(TEXT) for fault in faults(line)]
    bare = [row for row in rows(TEXT) if not SPAN.findall(row[1])]
    assert all(row[1].startswith(("not there", "not public")) for row in bare), bare


def test_every_row_with_a_command_names_its_test():
    assert not [row[0] for row in rows(TEXT) if SPAN.findall(row[1]) and "`tests/" not in row[2]]


@pytest.mark.parametrize(
    "line",
    ["learn trian STORE", "learn train STORE --recipe avid --sett x", "learn episodes S --wayz 5"],
)
def test_what_does_not_exist_is_seen(line):
    assert faults(line)


@pytest.mark.soak
def test_the_commands_of_learn_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = testing.fill("STORE", clips=320, rows=8, dim=16, classes=8, disjoint=False)
    testing.fill("OTHER", clips=160, rows=8, dim=16, classes=8, disjoint=False)
    table = made.manifest()
    names = sorted(set(table.column("label")))
    vectors = np.random.default_rng(0).standard_normal((len(names), 12)).astype(np.float32)
    class_embeddings.write(Path("names.csv"), ClassEmbeddings(names=tuple(names), vectors=vectors))
    # The first class is in the test split alone: zero-shot asks about one that training lacks.
    # Every class has clips in both languages: retrieval across languages finds its own.
    cells = zip(table.clip_ids, table.column("split"), table.column("label"), strict=True)
    lines = [
        f"{clip},{'away' if label == names[0] and split != 'test' else split},{label},"
        f"l{i // len(names) % 2}"
        for i, (clip, split, label) in enumerate(cells)
    ]
    Path("now.csv").write_text("\n".join(["path,split,label,language", *lines]) + "\n")
    made.add_manifest(store.read_manifest("now.csv", ids_suffice=True))
    said = (f"{clip},{label} {i % 5}" for i, (clip, label) in enumerate(
        zip(table.clip_ids, table.column("label"), strict=True)
    ))  # fmt: skip
    Path("transcripts.csv").write_text("\n".join(["clip_id,text", *said]) + "\n")
    for line in commands(TEXT):
        words = shlex.split(line)
        if words[:2] != ["extract", "text"] and (
            words[0] != "learn" or words[1] in ("finetune", "benchmark")
        ):
            continue  # of clips, or of 3MASSIV alone: tests of their own
        once = "--set optimiser.epochs=1 --set optimiser.watch=none"
        short = {"train": once, "sweep": once}
        few = " --episodes 20 --queries 4" if words[1] == "episodes" else ""
        command(shlex.split(f"{line} {short.get(words[1], '')}{few}"))
