"""Pages of Markdown whose blocks are run: README.md and the pages of `docs/`.

Blocks are run in their order, in one folder. Lines of `sh` are commands of this process, where each
begins with one of ours, and a script of bash where not; `python` runs as it stands, with the names
of the blocks before it. A block that stands below a file's name (`support.csv`) becomes that file.
A `text` block shows what the block of commands before it prints (see `unlike`). An `sh` block whose
first line begins with `# needs` is not run: its reader sees why. Commands inside sentences need
not run as they stand, so only their names and options are looked up.
"""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cli

ROOT = Path(__file__).parents[1]
MAINS = {"extract": cli.extract_main, "store": cli.store_main, "learn": cli.learn_main}
APPS = {"extract": cli.extract_app, "store": cli.store_app, "learn": cli.learn_app}
BLOCK = re.compile(r"(?:^|\n)([^\n]*)\n\n?```(\w+)([^\n]*)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"`([\w.]+\.(?:csv|py|sh))`")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SECONDS = 300  # for a script
POINTS = 3.0  # by how much an accuracy may differ from the one that is shown


def blocks(text):
    """Each block: the line before it, its kind, its text."""
    return [(before, kind, body) for before, kind, _, body in BLOCK.findall(text)]


def is_run(kind, body):
    return kind != "sh" or not body.startswith("# needs ")


def lines_of(body):
    """The commands of a block of `sh`, words by words; lines that go on are one."""
    lines = re.sub(r"\\\n\s*", "", body).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def command(words):
    """Run a command as a shell would, in this process; `findings` are no failure."""
    sys.argv = words
    with pytest.raises(SystemExit) as done:
        MAINS[words[0]]()
    assert done.value.code in (None, 0, 1), words


def script(body, folder):
    """Run a block as a script of bash that ends with its first failure, and what it started."""
    programs = folder.parent / f"{folder.name}-bin"
    programs.mkdir(exist_ok=True)
    for name, words in _PROGRAMS.items():
        (programs / name).write_text(_PROGRAM.format(python=sys.executable, words=words))
        (programs / name).chmod(0o755)
    ours = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", body], cwd=folder, text=True, start_new_session=True,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OURS": ours},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{body}\n{out}\n{err}"
    return err + out


# As installed ones do, these look for modules in no directory of the reader's (`-P`).
_PROGRAMS = {name: f"-P -m {name}" for name in MAINS} | {
    "dask": "-P -m dask",
    "python": "",
}
_PROGRAM = """#!/bin/sh
PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}$OURS" exec "{python}" {words} "$@"
"""


def run(text, folder, shown=None):
    """Run all blocks of a document in a folder; `shown` says whether to hold `text` to it."""
    names = {"__name__": "__main__"}
    printed, exports = "", []
    for before, kind, body in blocks(text):
        if not is_run(kind, body):
            continue
        if (named := FILE.search(before)) and before.rstrip().endswith(":") and kind != "text":
            (folder / named[1]).write_text(body)
        elif kind == "python":
            exec(compile(body, "page", "exec"), names)
        elif kind == "sh":
            printed = commands_of("\n".join([*exports, body]), folder)
            exports += re.findall(r"^export .*$", body, re.MULTILINE)
        elif kind == "text" and shown:
            assert not (lines := unlike(body, printed)), f"{lines} is not in\n{printed}"


def commands_of(body, folder):
    """Run a block of `sh`: what it printed, talk before results."""
    lines = lines_of(body)
    if any(words[0] not in MAINS for words in lines):
        return script(body, folder)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            for words in lines:
                command(words)
    finally:
        printed = err.getvalue() + out.getvalue()
        print(printed)
    return printed


def unlike(shown, printed):
    """The lines of a shown output that the printed one has not, in this order.

    Numbers, names made of digests and blanks may differ; what stands before ± may by three points.
    `…` stands for anything, alone on its line or at the end of one.
    """
    left = [(_skeleton(line), line) for line in printed.splitlines()]
    missing = []
    for line in filter(None, map(str.strip, shown.splitlines())):
        if line == "…":
            continue
        at = next((i for i, (s, real) in enumerate(left) if _like(line, s, real)), None)
        if at is None:
            missing.append(line)
        else:
            left = left[at + 1 :]
    return missing


def _like(line, skeleton, real):
    """Whether a printed line is the one that is shown."""
    wanted = _skeleton(line)
    same = skeleton.startswith(wanted[:-1]) if wanted.endswith("…") else skeleton == wanted
    pairs = zip(_accuracies(line), _accuracies(real), strict=False)
    return same and all(abs(a - b) <= POINTS for a, b in pairs)


def _skeleton(line):
    """A line without what differs between machines."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "0", line)
    return " ".join(NUMBER.sub("0", line).split())


def _accuracies(line):
    """Numbers before ±."""
    return [float(number) for number in re.findall(r"([\d.]+) ±", line)]


def inline(text):
    """Commands inside sentences, as words; those with … or other marks of a gap left out."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"`((?:extract|store|learn) [^`]+)`", prose)
    return [shlex.split(words.replace("\n", " ")) for words in found]


def faults(words):
    """What of a command does not exist: itself, or options."""
    known = typer.main.get_command(APPS[words[0]])
    for word in words[1:]:
        if not hasattr(known, "commands") or word not in known.commands:
            break
        known = known.commands[word]
    options = {option for parameter in known.params for option in parameter.opts} | {"--help"}
    if hasattr(known, "commands"):
        options |= {"--version"}
        if not any(word in options for word in words[1:]):
            return [" ".join(words)]
    return [word for word in words if word.startswith("--") and word not in options]
