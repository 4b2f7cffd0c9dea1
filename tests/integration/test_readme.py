"""README.md runs as it is written (`tests/pages.py`), on a folder of clips rendered here.

Numbers of episodes that no line names are made small here, and maps are laid out the quick way.
"""

import re
import shutil
import sys

import pytest

from extract.datasets import synth
from learn import trial
from learn.evaluation import config
from learn.reporting import projection_2d
from learn.training import unseen
from tests.pages import ROOT, blocks, faults, inline, is_run, run

README = (ROOT / "README.md").read_text()
CLIPS = 8  # of each class: five shots and three queries
CLASSES = ("cooking", "dancing", *(f"topic{i}" for i in range(8)))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """`my_clips`, with the classes and clips that README names."""
    folder = tmp_path_factory.mktemp("readme")
    synth.render(folder / "made", classes=len(CLASSES), clips=CLIPS, seconds=0.5, workers=2)
    named = [
        line.split(",")[0]
        for line in {kind: body for _, kind, body in blocks(README)}["csv"].split()
    ]
    for number, label in enumerate(CLASSES):
        of_class = sorted((folder / "made" / "videos" / f"class_{number:03}").iterdir())
        names = [name for name in named if name.startswith(f"{label}/")]
        names += [f"{label}/{i}.mp4" for i in range(len(of_class) - len(names))]
        (folder / "my_clips" / label).mkdir(parents=True)
        for path, name in zip(of_class, names, strict=True):
            path.rename(folder / "my_clips" / name)
    shutil.rmtree(folder / "made")
    return folder


@pytest.fixture
def few_episodes(monkeypatch):
    monkeypatch.setattr(config, "EPISODES", 200)
    monkeypatch.setattr(trial, "EPISODES", 200)
    monkeypatch.setattr(unseen, "EPISODES", 40)
    flat = projection_2d.flat
    monkeypatch.setattr(projection_2d, "flat", lambda x, method: flat(x, "pca"))


@pytest.mark.usefixtures("few_episodes")
def test_the_blocks_run_as_written(clips, monkeypatch, capsys):
    monkeypatch.chdir(clips)
    monkeypatch.setattr(sys, "argv", [])
    run(README, clips)
    out = capsys.readouterr().out
    assert "report: my_answers/report.html" in out
    answers = (clips / "answers.csv").read_text().splitlines()
    assert len(answers) == 1 + len(CLASSES) * CLIPS - 6
    for made in ("my_answers/report.html", "report.html", "runs/infonce/done.json", "split.csv"):
        assert (clips / made).is_file(), made


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("learn split my_store -o split.csv", "learn split my_stroe -o split.csv"),
        ("store info my_store", "store infos my_store"),
        ("--head default", "--haed default"),
    ],
)
def test_a_broken_line_is_seen(line, broken, tmp_path, monkeypatch):
    (text,) = [found for found in README.splitlines() if found.startswith(line) or line in found][
        :1
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(AssertionError):
        run(f"\n\n```sh\n{text.replace(line, broken)}\n```\n", tmp_path)


def test_what_is_not_run_says_why():
    left = [body for _, kind, body in blocks(README) if not is_run(kind, body)]
    assert all(re.match(r"# needs \w+ ", body) for body in left)
    ran = [body for _, kind, body in blocks(README) if kind == "sh" and is_run(kind, body)]
    assert len(ran) > len(left)


@pytest.mark.parametrize("words", inline(README), ids=" ".join)
def test_commands_inside_sentences_exist(words):
    assert not faults(words)
