"""The file that answers `learn X` is called X, and a command that lists a family is its folder."""

from pathlib import Path

import pytest
import typer

import cli
from tests.integration.test_options import commands

ROOT = Path(__file__).parents[2]
# Commands whose home has another name, each for a reason.
OTHERWISE = {
    "store export": "store/exchange/exchange.py",  # both ways of one exchange
    "store import": "store/exchange/exchange.py",
    "learn benchmark": "learn/evaluation/frozen.py",  # benchmark.py is what scores episodes
    "learn try": "learn/trial.py",  # `try` is a word of Python's own
    "extract weights list": "extract/weights/fetch.py",  # what can be fetched
}
COMMANDS = [
    words
    for name, app in (
        ("extract", cli.extract_app), ("store", cli.store_app), ("learn", cli.learn_app)
    )
    for words, _ in commands(typer.main.get_command(app), name)
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_answered_by_the_file_of_its_name(command):
    if command in OTHERWISE:
        assert (ROOT / OTHERWISE[command]).is_file()
        return
    package, *_, name = command.split()
    homes = [path for path in (ROOT / package).rglob(f"{name}*") if "commands" not in path.parts]
    assert [p for p in homes if p.name == f"{name}.py" or (p.is_dir() and p.name == name)], command


def test_the_exceptions_are_commands():
    assert OTHERWISE.keys() <= set(COMMANDS)
