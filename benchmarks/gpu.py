"""A quarter of an hour with a GPU: is everything right on it, and how fast.

    make gpu                                   # all steps; gpu.jsonl and a table
    python -m benchmarks.gpu --list            # the steps, and the seconds each may take
    python -m benchmarks.gpu --steps right,extract -o some.jsonl
    python -m benchmarks.gpu --dry             # every step on the processor, in tiny sizes

Needs: one NVIDIA GPU with 16 GiB or more, a driver for the CUDA of the installed torch, this
checkout with its `dev` extra, 8 GiB of memory, 4 GiB of temporary disk; no network, no weights, no
data. Takes ten minutes at most (`--deadline`). Writes one JSONL file, row by row as they are
measured (`-o`, gpu.jsonl), and prints a Markdown table of it, goals and predictions beside what was
measured; `--table FILE` writes the table too.

Each step is a process of its own. One that fails, dies, or takes more than 1.5 times its budget is
a row that says so, and the next one begins; one that no longer fits into the deadline is left out,
and said so. Steps stand in order of worth. How busy the card was is looked at every 100 ms.

Exit code 0: all goals met; 1: a step failed or a goal was missed; 2: no GPU, or no such step.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 580.0
PATIENCE = 1.5  # times its budget, and a step is killed
HEADER = ("step", "what", "ours", "unit", "held against", "ratio", "goal", "met", "predicted",
          "note")  # fmt: skip
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A step: its module and function here, its budget, and what it is for."""

    name: str
    module: str
    function: str
    seconds: float
    text: str


STEPS = (
    Step("ceilings", "_gpu_machine", "ceilings", 20, "what the card can do at best"),
    Step("right", "_gpu_extract", "right", 70, "rows are those of the processor"),
    Step("sync", "_gpu_extract", "sync", 40, "no clip waits for the card"),
    Step("extract", "_gpu_extract", "runs", 170, "extract run as a whole"),
    Step("networks", "_gpu_extract", "speeds", 60, "networks at several batch sizes"),
    Step("profile", "_gpu_extract", "profile", 25, "copies that wait, copies that are hidden"),
    Step("memory", "_gpu_extract", "memory", 45, "flat over units, and too little of it"),
    Step("two", "_gpu_extract", "two", 30, "two encoders at once"),
    Step("threads", "_gpu_extract", "threads", 20, "fp32 under two threads"),
    Step("training", "_gpu_learn", "training", 60, "against the bare loop, repeated, resumed"),
    Step("heads", "_gpu_learn", "heads", 90, "every head against the processor"),
    Step("search", "_gpu_learn", "search", 40, "exact search among a million"),
    Step("tests", "_gpu_machine", "marked", 120, "the tests marked gpu"),
    Step("compile", "_gpu_machine", "compiled", 100, "whether torch.compile pays"),
)


def rows_of(step: Step, dry: bool) -> Iterator[Record]:
    """The rows of a step, and at last a record of how it went, measured in this process."""
    begun, status, why = time.monotonic(), "ok", ""
    try:
        from benchmarks._gpu_kit import Kit

        module = importlib.import_module(f"benchmarks.{step.module}")
        measure = getattr(module, step.function)
        with closing(Kit(dry)) as kit:
            for row in measure(kit):
                shown = row.to_dict() | ({"met": None} if dry else {})  # a processor is no card
                yield {"event": "row", "step": step.name, **shown}
    except Exception as error:  # a step that fails is a figure too
        status = "failed"
        why = f"{type(error).__name__}: {error} ({_place(error)})"
    yield _ended(step, status, why, time.monotonic() - begun)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def _ended(step: Step, status: str, why: str, seconds: float) -> Record:
    return {
        "event": "step", "step": step.name, "status": status, "seconds": round(seconds, 1),
        "why": why[:500],
    }  # fmt: skip


def in_a_process(step: Step, command: Sequence[str], seconds: float) -> Iterator[Record]:
    """What a process says of a step, line by line; it is killed after so many seconds."""
    begun, path = time.monotonic(), os.pathsep.join([str(ROOT), *sys.path])
    lines: Queue[str | None] = Queue()
    talk: list[str] = []
    ended = late = False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True, env=os.environ | {"PYTHONPATH": path},
    ) as child:  # fmt: skip
        readers = [
            Thread(target=_read, args=(child.stdout, lines.put), daemon=True),
            Thread(target=_read, args=(child.stderr, lambda x: talk.append(x or "")), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            while True:
                left = seconds - (time.monotonic() - begun)
                line = lines.get(timeout=max(left, 0.01))
                if line is None:
                    break
                with suppress(ValueError):  # what a library prints
                    record = json.loads(line)
                    if isinstance(record, dict) and "event" in record:
                        ended = ended or record["event"] == "step"
                        yield record
        except Empty:
            late = True
        finally:
            if late or sys.exc_info()[0] is not None:
                _kill(child)
            with suppress(subprocess.TimeoutExpired):  # it has said all, and may not end
                child.wait(10)
            _kill(child)
            code = child.wait()
            for reader in readers:
                reader.join(2)
    if late:
        yield _ended(step, "killed", f"not done after {seconds:.0f} s", time.monotonic() - begun)
    elif not ended:
        last = next((line.strip() for line in reversed(talk) if line.strip()), "it said nothing")
        yield _ended(step, "died", f"exit code {code}: {last}", time.monotonic() - begun)


def _read(stream: IO[str] | None, take: Callable[[str | None], Any]) -> None:
    assert stream is not None
    for line in stream:
        take(line)
    take(None)


def _kill(child: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def machine(dry: bool) -> Record:
    """Where and of what this was measured."""
    import torch

    card = driver = ""
    if torch.cuda.is_available():
        card = torch.cuda.get_device_name(0)
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError):
            driver = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    )
    return {
        "event": "machine", "dry": dry, "card": card or "none", "driver": driver,
        "torch": torch.__version__, "cuda": torch.version.cuda, "cores": os.cpu_count(),
        "commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }  # fmt: skip


def measured(steps: Iterable[Step], *, dry: bool, deadline: float) -> Iterator[Record]:
    """All records: of the machine, of every row, of every step."""
    begun = time.monotonic()
    yield machine(dry)
    for step in steps:
        left = deadline - (time.monotonic() - begun)
        if step.seconds > left:
            why = f"{left:.0f} s left of the deadline, and it may take {step.seconds:.0f}"
            yield _ended(step, "skipped", why, 0.0)
        elif dry:
            yield from rows_of(step, dry)
        else:
            command = [sys.executable, "-m", "benchmarks.gpu", "--inside", step.name]
            yield from in_a_process(step, command, min(PATIENCE * step.seconds, left))


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table of the records."""
    lines: list[str] = []
    for record in records:
        if record["event"] == "machine":
            where = "a dry run on the processor" if record["dry"] else record["card"]
            lines += [
                f"{where}, driver {record['driver'] or 'none'}, torch {record['torch']}, "
                f"{record['cores']} cores, commit {record['commit']}, {record['date']}",
                "", f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER),
            ]  # fmt: skip
        elif record["event"] == "row":
            bare = "" if record["bare"] is None else f"{_short(record['bare'])} "
            met = {True: "yes", False: "**no**", None: ""}[record["met"]]
            cells = (
                record["step"], record["what"], _short(record["value"]), record["unit"],
                f"{bare}{record['against']}", _short(record["ratio"]), record["goal"], met,
                record["predicted"], record["note"],
            )  # fmt: skip
            lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
        elif record["status"] != "ok":
            cells = (record["step"], f"**{record['status']}**", *[""] * 7, record["why"])
            lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "/").split())


def bad(records: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a step failed, or a goal was missed."""
    return any(
        record.get("met") is False or record.get("status") in ("failed", "died", "killed")
        for record in records
    )


def chosen(names: str) -> list[Step]:
    """The steps of these names, in their own order; all where none is named."""
    wanted = [name for name in names.split(",") if name]
    known = {step.name: step for step in STEPS}
    if unknown := [name for name in wanted if name not in known]:
        print(f"no step {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        raise SystemExit(2)
    return [step for step in STEPS if not wanted or step.name in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", default="", help="names with commas; all by default")
    parser.add_argument("--list", action="store_true", help="list the steps")
    parser.add_argument("--dry", action="store_true", help="on the processor, in tiny sizes")
    parser.add_argument("--deadline", type=float, default=DEADLINE_SECONDS, help="seconds in all")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.jsonl"), help="JSONL")
    parser.add_argument("--table", type=Path, help="a file for the table too")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.list:
        for step in STEPS:
            print(f"{step.name:10} {step.seconds:4.0f} s  {step.text}")
        return 0
    steps = chosen(given.inside or given.steps)
    if given.inside:
        for record in rows_of(steps[0], given.dry):
            print(json.dumps(record), flush=True)
        return 0
    if not given.dry:
        import torch

        if not torch.cuda.is_available():
            print("torch finds no GPU here; --dry runs every step on the processor",
                  file=sys.stderr)  # fmt: skip
            return 2
    records: list[Record] = []
    with given.output.open("w") as file:
        for record in measured(steps, dry=given.dry, deadline=given.deadline):
            file.write(json.dumps(record) + "\n")
            file.flush()
            records.append(record)
            told = record.get("what") or record.get("status") or ""
            print(f"{record['event']}: {record.get('step', '')} {told}", file=sys.stderr)
    text = table(records)
    print(text)
    if given.table:
        given.table.write_text(text + "\n")
    return int(bad(records))


if __name__ == "__main__":
    sys.exit(main())
