"""README.md runs as it is written, on a folder of clips rendered here.

Blocks are run in their order, lines of `sh` as commands of this process, `python` as it stands; a
`csv` block becomes the file that the paragraph before it names. An `sh` block whose first line
begins with `# needs` is not run: its reader sees why. Commands inside sentences need not run as
they stand, so only their names and options are looked up.

Numbers of episodes that no line names are made small here, and maps are laid out the quick way.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer

import cli
from extract.datasets import synth
from learn import trial
from learn.evaluation import config
from learn.reporting import projection_2d
from learn.training import unseen

README = (Path(__file__).parents[2] / "README.md").read_text()
MAINS = {"extract": cli.extract_main, "store": cli.store_main, "learn": cli.learn_main}
APPS = {"extract": cli.extract_app, "store": cli.store_app, "learn": cli.learn_app}
BLOCK = re.compile(r"(?:^|\n)([^\n]*)\n\n?```(\w+)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"`([\w.]+\.csv)`")
CLIPS = 8  # of each class: five shots and three queries
CLASSES = ("cooking", "dancing", *(f"topic{i}" for i in range(8)))


def blocks(text):
    """Each block: the line before it, its kind, its text."""
    return [match.groups() for match in BLOCK.finditer(text)]


def is_run(kind, body):
    return kind != "sh" or not body.startswith("# needs ")


def command(line):
    """Run a line as a shell would, in this process; `findings` are no failure, as README says."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    sys.argv = words
    with pytest.raises(SystemExit) as done:
        MAINS[words[0]]()
    assert done.value.code in (None, 0, 1), line


def run(text, folder):
    """Run all blocks of a document in a folder."""
    for before, kind, body in blocks(text):
        if not is_run(kind, body):
            continue
        if kind == "csv":
            (folder / FILE.search(before)[1]).write_text(body)
        elif kind == "python":
            exec(compile(body, "README.md", "exec"), {})
        else:
            for line in body.splitlines():
                command(line)


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


def inline(text):
    """Commands inside sentences."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"`((?:extract|store|learn) [^`]+)`", prose)
    return [shlex.split(words.replace("\n", " ")) for words in found]


@pytest.mark.parametrize("words", inline(README), ids=" ".join)
def test_commands_inside_sentences_exist(words):
    command = typer.main.get_command(APPS[words[0]])
    for word in words[1:]:
        if not hasattr(command, "commands") or word not in command.commands:
            break
        command = command.commands[word]
    assert not hasattr(command, "commands"), words
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options | {"--help"}
