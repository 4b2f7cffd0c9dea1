"""Parts of all three command lines: options, tables, progress, errors as lines, exit codes.

Exit codes: 0 done · 1 done, with findings · 2 you can fix it · 101 our bug · 130 Ctrl-C.
Results go to stdout, one JSON object with `--json`; talk goes to stderr. Heavy libraries are
imported inside commands, and rich where something is drawn, so that `--help` is instant.
"""

import errno
import json
import os
import re
import signal
import sys
import textwrap
import time
import traceback
from _thread import interrupt_main
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from store import command_config
from store.errors import MicroshotError, NotEnoughMemory
from store.progress import listening
from store.sizes import parse_size

DONE, FINDINGS, FIXABLE, OUR_BUG, STOPPED = 0, 1, 2, 101, 130
_ClickException = typer.BadParameter.__mro__[2]  # typer keeps its own click and exports no base

# ── options that several commands have ───────────────────────────────────────────────────────────

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
StoreDir = Annotated[
    str, typer.Argument(metavar="DIR", help="The feature store: a directory or s3://BUCKET/PREFIX.")
]
TrustPickle = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Read pickles: arrays and names only, nothing is run."),
]
InsecureTcp = Annotated[
    bool,
    typer.Option(
        "--insecure-tcp",
        help="Let a scheduler be tcp://: whoever reaches it can run programs as you.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What it may take beside the program itself; told in a line where that is not enough.",
        show_default="all there is",
    ),
]

Function = TypeVar("Function", bound=Callable[..., Any])


class _Command(TyperCommand):
    """A command whose help shows every default alike, whether it is a value or said in words, and
    that says when it is stopped whether the same line goes on or begins anew."""

    goes_on = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            words = getattr(parameter, "show_default", None)
            if isinstance(words, str):  # typer would put them in parentheses
                vars(parameter)["_get_default_string"] = partial(_said, words)

    def invoke(self, ctx: Any) -> Any:
        """What the command returns."""
        try:
            code = super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):
            code = STOPPED
        if code == STOPPED and not isinstance(code, Stopped):
            return Stopped(_GOES_ON if self.goes_on else _BEGINS_ANEW)
        return code


class _GoingOn(_Command):
    """A command that keeps what it has finished, and does only the rest when it is run again."""

    goes_on = True


_GOES_ON = "what is finished stays, run the same command to go on"
_BEGINS_ANEW = "nothing is left half-written, the same command begins anew"


def _said(words: str, **_: Any) -> str:
    """The words for a default."""
    return words


class CommandLine(typer.Typer):
    """A command line, or a group of its commands; without arguments it shows its help."""

    def command(  # type: ignore[override]
        self,
        name: str | None = None,
        *,
        goes_on: bool = False,
        cls: type[TyperCommand] | None = None,
        **how: Any,
    ) -> Callable[[Function], Function]:
        """Register a command; one of many options can have them from a file.

        One that `goes_on` keeps what it has finished and does only the rest when it is run again.
        """
        register = super().command(name, cls=cls or (_GoingOn if goes_on else _Command), **how)

        def registered(function: Function) -> Function:
            register(command_config.with_files(function))
            return function

        return registered


def app(summary: str) -> CommandLine:
    """A group of commands."""
    return CommandLine(no_args_is_help=True, help=summary, add_completion=False)


def command_line(summary: str) -> CommandLine:
    """A whole command line, with --version and the completion of shells."""
    made = CommandLine(no_args_is_help=True, help=summary)

    @made.callback()
    def whole(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=_show_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None:
        """Nothing but the options of all commands."""

    return made


def _show_version(wanted: bool) -> bool:
    """Print the version, where it is asked for, and end."""
    if wanted:
        from importlib.metadata import version

        print(f"microshot {version('microshot')}")
        raise typer.Exit
    return wanted


# ── results ──────────────────────────────────────────────────────────────────────────────────────


def give(result: Mapping[str, Any], as_json: bool, render: Callable[[], None]) -> None:
    """Print a result on stdout: as one JSON object, or as `render` shows it to people."""
    if as_json:
        print(json.dumps(result))
    else:
        render()


# Control characters but line breaks and tabs, direction overrides, and halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def visible(text: str) -> str:
    """The text with what would command a terminal, or turn round its letters, as escapes."""
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


def write_line(text: object = "") -> None:
    """Print a line of a result; names of clips and classes in it cannot command the terminal."""
    print(visible(str(text)))


def wrapped(text: str, indent: str = "") -> None:
    """Print a paragraph; `indent` goes before its first line."""
    print(
        textwrap.fill(visible(text), 80, initial_indent=indent, subsequent_indent=indent + "    ")
    )


def table(rows: Sequence[Mapping[str, Any]], columns: list[str], *, header: bool = True) -> None:
    """Print rows under their columns, as they are: brackets of a name are no markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for column in columns:
        drawn.add_column(Text(column), overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(visible(str(row[column]))) for column in columns))
    Console(highlight=False).print(drawn)


def pairs(facts: Mapping[str, Any]) -> None:
    """Print a name and its value a line."""
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in facts.items()}
    table([{"key": k, "value": v} for k, v in shown.items()], ["key", "value"], header=False)


def offered_by(row: Mapping[str, Any]) -> str:
    """The distribution that a listed plug-in comes from, if it is not ours."""
    return f" [{row['distribution']}]" if row["distribution"] else ""


def plugin_table(rows: list[dict[str, Any]]) -> None:
    """Print the plug-ins of a family: summary, settings with their defaults and bounds."""
    for row in rows:
        wrapped(f"{row['name']}{offered_by(row)}: {row['summary']}")
        shown = []
        for key, value in row["settings"].items():
            facts = ["main"] if key == row["main"] else []
            facts += [bounds] if (bounds := row["bounds"].get(key)) else []
            shown.append(f"{key}={value!r}" + (f" ({'; '.join(facts)})" if facts else ""))
        wrapped(", ".join(shown), "    ")


# ── progress ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def progress(noun: str, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A bar on a terminal; otherwise the lines that `message` brings, one per commit.

    What takes long below that is told beside the bar, see `store.progress.steps`.
    """
    if quiet or not sys.stderr.isatty():

        def lines(done: int, total: int | None, message: str = "", status: str = "") -> None:
            if message and not quiet:
                text = visible(f"{message}; {status}" if status else message)
                print(text, file=sys.stderr, flush=True)

        yield lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    class Left(TimeRemainingColumn):
        """How long it still takes, said so: another time stands beside it."""

        def render(self, task: Any) -> Any:
            """In brackets; nothing where nobody knows how much there is."""
            left = super().render(task)
            left.plain = f"({left.plain} left)" if left.plain else ""
            return left

    counted: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn(noun, markup=False))
    if noun == "bytes":
        counted = (DownloadColumn(), TransferSpeedColumn())
    columns = (
        BarColumn(20), *counted, TimeElapsedColumn(), Left(),
        TextColumn("{task.fields[status]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(noun, total=None, status="")
        is_counted = False

        def draw(done: int, total: int | None, message: str = "", status: str = "") -> None:
            nonlocal is_counted
            is_counted = True
            bar.update(task, completed=done, total=total, status=visible(status))
            if message:
                bar.console.print(visible(message), highlight=False, markup=False)

        def step(what: str, done: int, total: int | None) -> None:
            of = f" of {total:,}" if total is not None else ""
            bar.update(task, status=f"{what}: {done:,}{of}")
            if not is_counted:
                bar.update(task, completed=done, total=total)

        with listening(step):
            yield draw


@contextmanager
def interruptible() -> Iterator[Event]:
    """The first Ctrl-C sets the event, the next one interrupts."""
    stop = Event()

    def ask(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("finishing what is in hand; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def within(memory: str | None) -> Iterator[None]:
    """Let no more memory be held than that, beside what is held by now; None: all there is.

    What is held is looked at many times a second, and a command that holds more ends as by Ctrl-C.
    Files that are mapped do not count: they give way.

    Raises:
        ConfigError: it is no size.
        NotEnoughMemory: says so.
    """
    if memory is None:
        yield
        return
    allowed, done, exceeded = parse_size(memory), Event(), Event()
    with suppress(ImportError):
        import pyarrow  # noqa: F401 (its threads do not bear an interrupt while it is imported)
    limit = _held_bytes() + allowed
    number, before = signal.SIGINT, None
    if not callable(signal.getsignal(number)) and current_thread() is main_thread():
        # In the background of a script Ctrl-C is ignored, and this must not be.
        number = signal.SIGUSR1
        before = signal.signal(number, signal.default_int_handler)

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            if _held_bytes() > limit:
                exceeded.set()
                interrupt_main(number)
                return

    watcher = Thread(target=watch, daemon=True, name="memory")
    watcher.start()
    try:
        try:
            yield
        finally:
            done.set()
            watcher.join()
            time.sleep(0)  # an interrupt of this moment comes here
            if before is not None:
                signal.signal(number, before)
    except (KeyboardInterrupt, MemoryError) as error:
        if isinstance(error, KeyboardInterrupt) and not exceeded.is_set():
            raise
        raise NotEnoughMemory(
            f"`memory` {memory} is not enough here; what is finished stays. Give more, as "
            f"{max(1, 2 * allowed >> 20)}MiB, or leave the option out"
        ) from error


_LOOK_SECONDS = 0.02


def _held_bytes() -> int:
    """Memory of this process that no file backs."""
    try:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    except OSError:  # a system that tells less
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


class Stopped(int):
    """The exit code of a command that was stopped, and how to go on with it."""

    how: str

    def __new__(cls, how: str) -> "Stopped":
        """The code, with words that follow "stopped; "."""
        code = super().__new__(cls, STOPPED)
        code.how = how
        return code


# ── from a console script to its exit code ───────────────────────────────────────────────────────


def run(command_line: typer.Typer) -> None:
    """Run one console script and turn every outcome into its exit code."""
    # Threads of a matrix product that spin while they wait for each other stall as soon as anything
    # else wants the cores, as decode processes do: 2.7 times slower with 2 threads on 2 busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = command_line(standalone_mode=False, prog_name=Path(sys.argv[0]).name)
        sys.stdout.flush()
    except MicroshotError as error:
        _complain(error.kind, with_options(str(error), _options(command_line, sys.argv[1:])))
    except _ClickException as error:
        # No arguments at all: the help has been printed already, and the message is empty.
        text = error.format_message()  # type: ignore[attr-defined]
        if not text:
            sys.exit(FIXABLE)
        command = [name for name in sys.argv[1:2] if name in _commands(command_line)]
        manual = " ".join([Path(sys.argv[0]).name, *command, "--help"])
        _complain("usage", f"{text if text.endswith(('.', '?')) else text + '.'} Try `{manual}`.")
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except BrokenPipeError:  # `| head` has seen enough; the flush at exit would say so once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    except (OSError, MemoryError) as error:
        _complain("system", refusal(error))
    except Exception:
        traceback.print_exc()
        print("error[bug]: this is ours, not yours; please report the lines above", file=sys.stderr)
        sys.exit(OUR_BUG)
    if code == STOPPED:  # typer turns Ctrl-C into this code by itself
        how = code.how if isinstance(code, Stopped) else _BEGINS_ANEW
        print(f"stopped; {visible(how)}", file=sys.stderr)
    sys.exit(code or DONE)


# The next step after a refusal of the operating system, by its number.
_NEXT_STEPS = {
    errno.ENOSPC: "free some space, or name another disk",
    errno.EDQUOT: "free some of your quota, or name another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or name another file system",
    errno.EACCES: "name a place that you may use, or have the permissions changed",
    errno.EPERM: "name a place that you may use, or have the permissions changed",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "see whether it was moved, or its disk unmounted",
    errno.ENOTDIR: "a file stands where a directory should; name another path",
    errno.EISDIR: "a directory stands where a file should; name another path",
    errno.EEXIST: "name a new path",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EAGAIN: "raise the limit on processes (ulimit -u), or ask for fewer --workers",
    errno.ENOMEM: "close other programs, or ask for fewer --workers",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "look at the disk or the mount",
    errno.ESTALE: "look at the mount",
    errno.ENOTCONN: "look at the mount",
}


def refusal(error: OSError | MemoryError) -> str:
    """One line of what the operating system refused, and the next step."""
    if isinstance(error, MemoryError):
        return (
            "not enough memory; what is finished stays. Close other programs, lower --memory or "
            "--batch-size where the command has them, and run it again"
        )
    paths = [str(name) for name in (error.filename, error.filename2) if name is not None]
    step = _NEXT_STEPS.get(error.errno or 0, "mend that")
    where = " → ".join(paths) or "the system"
    return f"{where}: {error.strerror or error}; {step}, then run the same command again"


def with_options(message: str, options: Mapping[str, str]) -> str:
    """The message with every parameter in backticks written as its option."""
    return re.sub(
        r"`([\w-]+)`", lambda name: options.get(name[1].replace("-", "_"), name[0]), message
    )


def _options(command_line: typer.Typer, arguments: Sequence[str]) -> dict[str, str]:
    """The option (`--until-ci`) of each parameter of the command that the arguments name.

    Where the library takes several of what an option names once, its parameter is the plural.
    """
    command: Any = typer.main.get_command(command_line)
    for name in arguments:
        inner = getattr(command, "commands", {}).get(name)
        if inner is None:
            break
        command = inner
    if hasattr(command, "commands"):  # a group: its own options are settings of nothing
        return {}
    options = {
        parameter.name: next(option for option in parameter.opts if option.startswith("--"))
        for parameter in command.params
        if any(option.startswith("--") for option in parameter.opts)
    }
    return {f"{name}s": option for name, option in options.items()} | options


def _commands(command_line: typer.Typer) -> set[str | None]:
    groups = {group.name for group in command_line.registered_groups}
    return groups | {command.name for command in command_line.registered_commands}


def _complain(kind: str, message: str) -> None:
    print(f"error[{kind}]: {visible(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(FIXABLE)
