"""Every command keeps its arguments and options, by name, spelling, default and number.

`python -m tests.integration.test_options` writes `tests/golden/options.json` anew, for additions:
an option that is there may get another spelling beside its own, and never loses one.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

import cli

GOLDEN = Path(__file__).parents[1] / "golden" / "options.json"


def options() -> dict[str, dict[str, dict[str, Any]]]:
    """By command and parameter: what can be written, and what holds if nothing is."""
    options_of = {}
    for name, app in {
        "extract": cli.extract_app,
        "store": cli.store_app,
        "learn": cli.learn_app,
    }.items():
        for words, command in commands(typer.main.get_command(app), name):
            options_of[words] = {
                p.name: {
                    "spelling": sorted(p.opts),
                    "default": p.default if not callable(p.default) else None,
                    "required": p.required,
                    "several": bool(getattr(p, "multiple", False)) or p.nargs != 1,
                    "switch": bool(getattr(p, "is_flag", False)),
                }
                for p in command.params
                if p.name != "help"
            }
    return json.loads(json.dumps(options_of, default=str, sort_keys=True))


def commands(command, words):
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{words} {name}")
    else:
        yield words, command


KNOWN = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}


def test_no_command_is_gone():
    assert set(KNOWN) <= set(options())
    assert len(KNOWN) >= 33


@pytest.mark.parametrize("command", KNOWN)
def test_every_option_is_as_it_was(command):
    now = options()[command]
    assert set(KNOWN[command]) <= set(now)
    for name, was in KNOWN[command].items():
        assert set(was["spelling"]) <= set(now[name]["spelling"]), name
        assert {**now[name], "spelling": 0} == {**was, "spelling": 0}, name


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(options(), indent=1, sort_keys=True) + "\n")
