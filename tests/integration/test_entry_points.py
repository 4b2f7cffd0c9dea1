"""The doors of the three packages: versions, modules that run, completion, what `dir` shows."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

import cli
import extract
import learn
import store

ROOT = Path(__file__).parents[2]
NAMES = ("extract", "store", "learn")
APPS = {name: getattr(cli, f"{name}_app") for name in NAMES}
MAINS = {name: getattr(cli, f"{name}_main") for name in NAMES}


def called(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as exit_:
        MAINS[words[0]]()
    return exit_.value.code or 0, capsys.readouterr()


@pytest.mark.parametrize("name", NAMES)
def test_the_version_is_that_of_the_distribution(monkeypatch, capsys, name):
    code, said = called(monkeypatch, capsys, name, "--version")
    assert (code, said.out) == (0, f"microshot {version('microshot')}\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_package_runs_as_its_console_script(name):
    done = subprocess.run(
        [sys.executable, "-m", name, "nothing"], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error[usage]: No such command 'nothing'. Try `{name} --help`.\n"


@pytest.mark.parametrize(
    ("name", "begun", "offered"),
    [
        ("extract", "r", {"run"}),
        ("extract", "weights f", {"fetch"}),
        ("store", "ver", {"verify"}),
        ("learn", "report --thumb", set()),
        ("learn", "episodes --query-s", {"--query-store", "--query-split"}),
    ],
)
def test_a_shell_completes_commands_and_options(monkeypatch, capsys, name, begun, offered):
    monkeypatch.setenv(f"_{name.upper()}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"{name} {begun}")
    monkeypatch.setenv("COMP_CWORD", str(len(begun.split())))
    code, said = called(monkeypatch, capsys, name)
    assert (code, set(said.out.split())) == (0, offered)


@pytest.mark.parametrize("module", [extract, store, learn], ids=lambda m: m.__name__)
def test_a_prompt_sees_what_a_package_offers(module):
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("name", NAMES)
def test_types_are_for_those_who_use_us_too(name):
    assert (ROOT / name / "py.typed").is_file()


def helps(command, context):
    """The help of a command and of those inside it."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield command, [p._get_default_string(
            ctx=context, show_default_is_str=isinstance(p.show_default, str),
            default_value=p.default,
        ) for p in command.params if (p.show_default and p.default is not None)
            or isinstance(getattr(p, "show_default", None), str)]  # fmt: skip
    for one in inner.values():
        yield from helps(one, context)


@pytest.mark.parametrize("name", NAMES)
def test_all_defaults_are_shown_in_one_style(name):
    command = typer.main.get_command(APPS[name])
    shown = [text for _, texts in helps(command, typer.Context(command)) for text in texts]
    assert len(shown) > 5
    assert not [text for text in shown if text.startswith("(")]


def test_what_is_cited_is_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = dict(
        line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines()
        if ": " in line and not line.startswith(" ")
    )  # fmt: skip
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
