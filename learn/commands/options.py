"""The `learn` command line itself, and the options that several of its commands have."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from learn.training.run_files import COMMAND
from store import atomic, console

app = console.command_line("Train on stored features; answer few-shot questions.")

DATA, EPISODES, COMPARED, OUTPUT = "Which clips", "Which episodes", "What is compared", "Output"
MISSING, ELSEWHERE, TRAINING = "Missing modalities", "Queries from elsewhere", "How to train"

Manifest = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV",
        help="Splits and labels of another task for these clips.",
        show_default="those kept in the store",
        rich_help_panel=DATA,
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|none",
        help="Clips of one source, kept on one side.",
        show_default="group, if there is one",
        rich_help_panel=DATA,
    ),
]
GroupFile = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV",
        help="Clips of one source by a table of `learn groups`.",
        rich_help_panel=DATA,
    ),
]


def _feature(modality: str, *, several: bool = False, default: str = "the only one") -> Any:
    """The option of a feature's name, or of several."""
    return typer.Option(
        f"--{modality}", f"--{modality}-feature", metavar="FEATURE",
        help=f"Which {modality} feature, where there are several{'; may repeat' * several}.",
        show_default=default, rich_help_panel=DATA,
    )  # fmt: skip


VisualFeature = Annotated[str | None, _feature("visual")]
AudioFeature = Annotated[str | None, _feature("audio")]
TextFeature = Annotated[str | None, _feature("text")]
VisualFeatures = Annotated[list[str], _feature("visual", several=True)]
AudioFeatures = Annotated[list[str], _feature("audio", several=True)]
TextFeatures = Annotated[list[str], _feature("text", several=True)]
TrainedText = Annotated[list[str], _feature("text", several=True, default="none")]
Projections = Annotated[
    list[Path],
    typer.Option(
        metavar="RUN", help="A run of `learn train`, or none; may repeat.",
        rich_help_panel=COMPARED,
    ),
]  # fmt: skip
Projection = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="A run of `learn train`.", rich_help_panel=COMPARED),
]
Guard = Annotated[
    str,
    typer.Option(
        metavar="on|off|both",
        help="Stored vectors beside a projection's, as far as unseen classes and shots say; off: "
        "the bare projection.",
        rich_help_panel=COMPARED,
    ),
]
Names = Annotated[
    str,
    typer.Option(
        metavar="on|off",
        help="Names of classes as one more sense, where a guarded projection knows them.",
        rich_help_panel=COMPARED,
    ),
]
Recipe = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="See `learn recipes`.", rich_help_panel=TRAINING)
]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the recipe; may repeat.",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip
TrainingSeed = Annotated[
    int | None,
    typer.Option(
        "--seed", help="Of orders, copies and random weights.", show_default="0",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip


def memory_option(text: str, default: str) -> Any:
    """The option of what may be held in memory."""
    return typer.Option(
        "--memory", metavar="SIZE", help=text, show_default=default, rich_help_panel=DATA
    )


def _encoder(modality: str, of: str) -> Any:
    """The option of an encoder that learns."""
    return typer.Option(
        f"--{modality}", metavar="SPEC", help=f"The encoder of {of}.", rich_help_panel=DATA
    )


VisualEncoder = Annotated[str | None, _encoder("visual", "frames")]
AudioEncoder = Annotated[str | None, _encoder("audio", "sound")]
RowMemory = Annotated[str | None, memory_option("Stream rows beyond that.", "8GiB")]
ClipMemory = Annotated[
    str | None,
    memory_option("Decoded clips to keep; others are decoded again every epoch.", "1GiB"),
]
DecodeWorkers = Annotated[
    int,
    typer.Option(
        "--workers", help="Decode processes.", show_default="one per core",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with the training in RUN, if it is there.",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip
CheckpointSeconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="How much work a kill may cost.", rich_help_panel=TRAINING
    ),
]
NewRun = Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="New directory.")]
TrainOn = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda", help="Where to train.", rich_help_panel=TRAINING)
]
Incomplete = Annotated[
    bool,
    typer.Option(
        "--incomplete",
        help="Each mode on all clips that have what it looks at, not the same ones in all.",
        rich_help_panel=COMPARED,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda", help="Where vectors are made and compared.",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
KeepIn = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="RUN", help="Keep everything in this new directory.",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip


def keep_command(run_dir: Path | None) -> None:
    """Keep what was typed beside the result; each time on a line, as of a training gone on with."""
    if run_dir is None:
        return
    path = run_dir / COMMAND
    before = path.read_text() if path.is_file() else ""
    line = shlex.join(["learn", *sys.argv[1:]])
    atomic.write_text(path, f"{before}{' '.join(line.splitlines())}\n")


def modes_option(name: str, metavar: str, text: str, default: str) -> Any:
    """The option `--NAME`, also `--NAME-modes`, of modes to compare."""
    return typer.Option(
        f"--{name}", f"--{name}-modes", metavar=metavar, help=text, show_default=default,
        rich_help_panel=COMPARED,
    )  # fmt: skip
