"""A page of Markdown for every command, from the help that the command itself prints.

`pages()` gives `(path, title, text)`. Nothing stands here about any command: usage, words, options,
defaults and panels are what typer knows, and a command that only lists shows what it lists.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import typer

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("extract", "store", "learn")
_EXAMPLE = re.compile(r"^Example: (.+)$", re.MULTILINE)
_DEFAULT = re.compile(r"\s*\[(?:default: (?P<default>.*?))?(?:; )?(?P<required>required)?\]$")
_LISTING_COLUMNS = "100"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command's words (`extract weights fetch`) and what typer knows of it."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import cli

    for program in PROGRAMS:
        yield from _below(program, typer.main.get_command(getattr(cli, f"{program}_app")))


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command, or those of a group."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, inner in command.commands.items():
        yield from _below(f"{words} {name}", inner)


def path_of(words: str) -> str:
    """Where a command's page lies in the site."""
    return f"commands/{words.replace(' ', '-')}.md"


def pages() -> Iterator[tuple[str, str, str]]:
    """The page of all commands, and one for each."""
    found = list(commands())
    yield "commands/index.md", "All commands", _index(found)
    for words, command in found:
        yield path_of(words), words, page(words, command)


def _index(found: list[tuple[str, Any]]) -> str:
    """A table of all commands for each program."""
    lines = ["# Commands", "", "Each page is what the command's `--help` says."]
    for program in PROGRAMS:
        lines += ["", f"## {program}", "", "| command | meaning |", "|---|---|"]
        for words, command in found:
            if words.split()[0] == program:
                place = path_of(words).removeprefix("commands/")
                summary = _cell(_prose(command.help).split("\n")[0])
                lines.append(f"| [`{words}`]({place}) | {summary} |")
    return "\n".join(lines) + "\n"


def page(words: str, command: Any) -> str:
    """A command's page."""
    context = command.context_class(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    lines = [f"# {words}", "", _prose(command.help), "", "```text", usage, "```"]
    if examples := _EXAMPLE.findall(command.help or ""):
        lines += ["", "```sh", *examples, "```"]
    for panel, parameters in _panels(command, context):
        kind = "argument" if panel == "Arguments" else "option"
        lines += ["", f"## {panel}", "", f"| {kind} | meaning | default |", "|---|---|---|"]
        lines += [_row(parameter, context) for parameter in parameters]
    if listed := _listing(words, command):
        lines += ["", "## What it prints", "", "```text", listed, "```"]
    return "\n".join(lines) + "\n"


def _prose(text: str | None) -> str:
    """Help without its examples."""
    return re.sub(r"\n{3,}", "\n\n", _EXAMPLE.sub("", text or "")).strip()


def _panels(command: Any, context: Any) -> list[tuple[str, list[Any]]]:
    """Parameters by the panel that the help has them in: arguments, panels in order, the rest."""
    panels: dict[str, list[Any]] = {"Arguments": []}
    rest: list[Any] = []
    for parameter in command.get_params(context):
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        panel = getattr(parameter, "rich_help_panel", None)
        if parameter.param_type_name == "argument":
            panels["Arguments"].append(parameter)
        elif panel:
            panels.setdefault(panel, []).append(parameter)
        else:
            rest.append(parameter)
    name = "Options" if len(panels) == 1 else "Other options"
    return [(title, of) for title, of in [*panels.items(), (name, rest)] if of]


def _row(parameter: Any, context: Any) -> str:
    """A parameter's row: how it is written, what it means, what holds if it is left out."""
    written, said = parameter.get_help_record(context)
    default = "required" if parameter.required else ""
    if found := _DEFAULT.search(said):
        said = said[: found.start()]
        default = found["default"] or default
    spelling = re.sub(r" <bool>$", "", " ".join(written.split()))
    shown = _cell(default) if " " in default or not default else f"`{default}`"
    return f"| `{spelling}` | {_cell(said)} | {shown} |"  # what is in backticks is not escaped


def _cell(text: str) -> str:
    """Text that cannot leave its cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", r"\|").strip()


def _listing(words: str, command: Any) -> str:
    """What a command that takes nothing prints; nothing of others."""
    if {parameter.name for parameter in command.params} - {"as_json", "help"}:
        return ""
    out = io.StringIO()
    told = mock.patch.dict(os.environ, {"COLUMNS": _LISTING_COLUMNS, "MICROSHOT_OFFLINE": "1"})
    with told, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        command.main(args=[], prog_name=words, standalone_mode=False)
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())
