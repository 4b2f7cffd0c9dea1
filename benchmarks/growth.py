"""What every command costs as a store grows: seconds, memory, and the exponent between sizes.

    python -m benchmarks growth
    python -m benchmarks.growth --sizes 25000 100000 400000 --folder /var/tmp --commands verify info

Each command is a process of its own, as a user starts it: processor seconds of it and its children,
the least of `--rounds` that take the sizes in turn (other work only adds to them, and a tenth of a
second of a small store's command is a tenth of its exponent), and the most memory it held. The
store is made up (`store.testing`): two features of 32 numbers, one or two rows a clip, 512 clips a
unit; it is filled without waiting for the disk. A command that leaves something behind for the next
time ("again") finds nothing there in any round. An exponent of 1 is a cost that grows as the clips
do; what a process costs before it begins (an empty store's command) is taken off both sides first.
"""

import argparse
import csv
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks._table import show

if TYPE_CHECKING:
    from store import Store

SIZES, ROUNDS = (2_000, 8_000), 1
SHOTS, CLASSES, DIM, ROWS, CLIPS_PER_UNIT = 5, 20, 32, 2, 512
GOAL = 1.1  # the exponent
FIRST_CLIP = "class000/clip000000.mp4"  # that is searched by
EMPTY = 200  # clips of the store whose cost is that of starting
QUADRATIC = {"retrieval"}  # where the answer itself looks at every pair
LEAVES = {"planning": "index", "search": "index/vectors"}  # in the store, for the next time
RECIPE = """
[projection]
name = "linear"
dim_out = 16
[objective]
name = "infonce"
[optimiser]
batch_size = 512
epochs = 1
watch = "none"
"""
PLANNING = (
    "import sys, store; from pathlib import Path; from extract.pipeline.planned import planned;"
    "fs = store.open(sys.argv[1]); m = store.read_manifest(sys.argv[2]);"
    "units = planned(m, [fs[name] for name in fs.features], frozenset(), 512);"
    "print(len(units))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store of one size, and the files beside it that commands are given."""

    folder: Path
    clips: int

    @property
    def store(self) -> Path:
        """The store."""
        return self.folder / "store"

    @property
    def manifest(self) -> Path:
        """Its manifest, as a CSV."""
        return self.folder / "manifest.csv"

    @property
    def support(self) -> Path:
        """A few labelled clips of it."""
        return self.folder / "support.csv"

    @property
    def recipe(self) -> Path:
        """A recipe of one epoch."""
        return self.folder / "recipe.toml"

    @property
    def media(self) -> Path:
        """A folder of as many empty files, in which every class has the same file names."""
        return self.folder / "media"

    def output(self, name: str) -> Path:
        """A place for a result that is not there yet."""
        return self.folder / f"{name}-{time.time_ns()}"


Command = Callable[[Place], list[str]]


def _module(package: str, *words: str | Path) -> list[str]:
    return [sys.executable, "-m", package, *map(str, words)]


def _search(place: Place) -> list[str]:
    return _module("learn", "search", place.store, FIRST_CLIP, "--from", "v")


COMMANDS: Mapping[str, Command] = {
    "read manifest": lambda p: [
        sys.executable, "-c", "import sys, store; store.read_manifest(sys.argv[1])",
        str(p.manifest),
    ],
    "kept manifest": lambda p: [
        sys.executable, "-c", "import sys, store; store.open(sys.argv[1]).manifest()", str(p.store),
    ],
    "planning": lambda p: [sys.executable, "-c", PLANNING, str(p.store), str(p.manifest)],
    "planning again": lambda p: [sys.executable, "-c", PLANNING, str(p.store), str(p.manifest)],
    "status": lambda p: _module("extract", "status", p.manifest, "--store", p.store, "--json"),
    "info": lambda p: _module("store", "info", p.store, "--json"),
    "verify": lambda p: _module("store", "verify", p.store, "--json"),
    "search": _search,
    "search again": _search,
    "predict": lambda p: _module(
        "learn", "predict", p.store, "--support", p.support, "--mode", "v", "--by", "prototypes",
        "-o", p.output("answers.csv"),
    ),
    "train streamed": lambda p: _module(
        "learn", "train", p.store, "--recipe", p.recipe, "--memory", "2MiB",
        "-o", p.output("run"),
    ),
    "folder": lambda p: _module(
        "extract", "manifest", "folder", p.media, "-o", p.output("manifest.csv")
    ),
    "retrieval": lambda p: _module(
        "learn", "evaluate", p.store, "--protocol", "retrieval", "--json"
    ),
}  # fmt: skip


def made(folder: Path, clips: int) -> Place:
    """A store of that many clips, and the files beside it; what is there already is taken.

    By another process: the most memory that a process held is passed on to those it starts.
    """
    place = Place(folder=folder, clips=clips)
    if not place.recipe.exists():
        fill = ["-m", "benchmarks.growth", "--fill", str(clips), "--folder", str(folder)]
        subprocess.run([sys.executable, *fill], check=True)
    return place


def fill(place: Place) -> None:
    """Make a store and what goes with it."""
    from store import testing

    place.folder.mkdir(parents=True, exist_ok=True)
    with patch.object(os, "fsync"):  # nothing here must outlive a power cut
        fs = testing.fill(
            place.store, clips=place.clips, rows=ROWS, dim=DIM, classes=CLASSES, disjoint=False,
            clips_per_unit=CLIPS_PER_UNIT,
        )  # fmt: skip
    _write_tables(place, fs)
    place.recipe.write_text(RECIPE)


def fill_media(place: Place) -> None:
    """Make the folder of media."""
    for label in range(CLASSES):
        folder = place.media / f"class{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(place.clips // CLASSES):
            (folder / f"{number:06d}.mp4").touch()


def _write_tables(place: Place, fs: "Store") -> None:
    manifest = fs.manifest()
    with place.manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(manifest.columns)
        writer.writerows(zip(*(manifest.column(name) for name in manifest.columns), strict=True))
    with place.support.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "label"])
        labels = manifest.column("label")
        writer.writerows((manifest.clip_ids[i], labels[i]) for i in range(CLASSES * SHOTS))


def measured(arguments: Sequence[str]) -> tuple[float, float, float]:
    """Seconds by the clock, processor seconds, and MiB, of a process that must succeed."""
    begun = time.perf_counter()
    with Path(os.devnull).open("wb") as nothing, TemporaryDirectory() as folder:
        errors = Path(folder, "errors")
        with errors.open("wb") as said:
            actions = [
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, said.fileno(), 2),
            ]
            pid = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions)
            _, status, usage = os.wait4(pid, 0)
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            raise RuntimeError(f"{' '.join(arguments)}: {errors.read_text()[-2000:]}")
    seconds = time.perf_counter() - begun
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def rows_of(
    folder: Path, sizes: Sequence[int], names: Sequence[str], rounds: int
) -> Iterator[dict[str, Any]]:
    """Seconds and MiB by command and size, and the exponent between a size and the one before."""
    places = [made(folder / str(n), n) for n in (EMPTY, *sizes)]
    for place in places if "folder" in names else []:
        fill_media(place)
    for name in names:
        figures = [[_once(name, place) for place in places] for _ in range(rounds)]
        (_, at_rest, _), *rest = (_least(of_a_place) for of_a_place in zip(*figures, strict=True))
        before = None
        for clips, (wall, seconds, mebibytes) in zip(sizes, rest, strict=True):
            what = f"{name}, {clips:,} clips"
            yield row(what, seconds, "cpu s", f"{wall:.1f} s by the clock, {mebibytes:.0f} MiB")
            net = max(seconds - at_rest, 1e-3)
            if before is not None:
                exponent = math.log(net / before[1]) / math.log(clips / before[0])
                against = f"from {before[0]:,} clips on, less {at_rest:.1f} s of starting"
                goal = None if name in QUADRATIC else GOAL
                yield row(f"{what}, exponent", exponent, "", against, goal=goal)
            before = (clips, net)


def _once(name: str, place: Place) -> tuple[float, float, float]:
    if name in LEAVES:
        shutil.rmtree(place.store / LEAVES[name], ignore_errors=True)
    return measured(COMMANDS[name](place))


def _least(figures: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The least seconds of some rounds, and the most memory."""
    wall, seconds, mebibytes = zip(*figures, strict=True)
    return min(wall), min(seconds), max(mebibytes)


def row(
    what: str, value: float, unit: str, against: str, *, goal: float | None = None
) -> dict[str, Any]:
    """One figure."""
    return {
        "what": what, "value": value, "unit": unit, "ratio": None, "against": against, "goal": goal,
    }  # fmt: skip


def measure() -> Iterator[dict[str, Any]]:
    """Small sizes, which show the shape of the table and no more."""
    with TemporaryDirectory() as folder:
        yield from rows_of(Path(folder), SIZES, list(COMMANDS), ROUNDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, help="keep the stores there, for another time")
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.fill:
        fill(Place(folder=asked.folder, clips=asked.fill))
    elif asked.folder:
        show(rows_of(asked.folder, asked.sizes, asked.commands, asked.rounds))
    else:
        with TemporaryDirectory() as scratch:
            show(rows_of(Path(scratch), asked.sizes, asked.commands, asked.rounds))
