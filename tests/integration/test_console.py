"""A library's message on the command line: parameters are shown as the options they are."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from store import console

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`until_ci` draws, and `episodes_file` has them", "--until-ci draws, and --episodes-file"),
        ("`until-ci` too", "--until-ci too"),
        ("run `learn labels` first", "`learn labels`"),
        ("`nobody` knows this one", "`nobody`"),
        ("`directory` is an argument", "`directory`"),
        ("name `output` anew", "--output"),
        ("one of `projections`, `groups` apart", "one of --projection, --groups apart"),
    ],
)
def test_parameters_become_options(message, shown):
    options = console._options(cli.learn_app, ["episodes", "my_store", "--shots", "1"])
    assert shown in console.with_options(message, options)


def test_the_command_that_runs_decides():
    assert "support" in console._options(cli.learn_app, ["predict", "x"])
    assert console._options(cli.extract_app, ["weights", "fetch", "x"])["sha256"] == "--sha256"
    assert console._options(cli.store_app, ["export", "x"])["features"] == "--feature"
    assert console._options(cli.learn_app, ["nonsense"]) == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "episodes nowhere --until-ci 0.1 --episodes-file e",
            "--until-ci draws episodes, and --episodes-file has them",
        ),
        ("episodes nowhere --drop v --drop-rates 2", "--drop rates [2.0]: name shares"),
        ("compare nowhere --against frist", "--against 'frist' is none of"),
        ("sweep nowhere --recipe infonce --grid x -o g", "--grid 'x' is not SECTION.KEY"),
    ],
)
def test_an_error_of_the_library_names_the_option(words, says, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["learn", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.learn_main()
    assert end.value.code == console.FIXABLE
    error = capsys.readouterr().err
    assert says in error
    assert "`" not in error


def test_names_are_shown_as_they_are(capsys):
    """Brackets are no markup, and nothing that a name holds commands the terminal."""
    rows = [
        {"class [b]": "[music]/b.mp4", "n": "[/b]x"},
        {"class [b]": "\x1b[31m\u202er", "n": "é"},
    ]
    console.table(rows, ["class [b]", "n"])
    console.write_line("[/b]\x9b2J")
    shown = capsys.readouterr().out
    assert "class [b]" in shown
    assert "[music]/b.mp4" in shown
    assert "[/b]x" in shown
    assert r"\x1b[31m\u202er" in shown
    assert r"[/b]\x9b2J" in shown
    assert not set("\x1b\x9b\u202e") & set(shown)


def test_progress_is_drawn_on_a_terminal():
    code = (
        "from store.console import progress\n"
        "with progress('clips', quiet=False) as draw:\n"
        "    draw(1, 2, 'unit [b] \\x1b]0;x', '3 [/failed]')\n"
        "    draw(2, 2, '', 'done')\n"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=theirs, cwd=ROOT, check=False, timeout=60,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0, drawn
    assert r"unit [b] \x1b]0;x" in drawn
    assert "clips" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert re.search(r"2/2 clips 0:00:0\d \(0:00:00 left\) done", plain), plain
