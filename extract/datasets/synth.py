"""Labelled micro videos with sound, rendered from a seed: something to try everything on.

A class is a point in a space of looks (shape, colour, path, direction, speed) and sounds (pitch,
timbre, rhythm). All coordinates lie on a circle of length 1, and a clip shows its class's
coordinate plus a uniform deviation of up to half the circle times (1 - knob). So at `visual=1` the
class is plain to see, and at `visual=0` a clip's looks are uniform whatever its class, exactly.

Clips of one group share a background, a tint and a voice that have nothing to do with the class:
near-duplicates, as the clips cut from one source video are. Everything follows from the seed: the
same call writes the same bytes on the same machine.

Shapes: T = frames, H, W = pixels, S = sound samples, K = coordinates of a class.
"""

import csv
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, Float32, UInt8

from extract.datasets import scene
from extract.datasets.scene import LOOKS, SOUNDS
from extract.processes.child import Outcome
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import OFF
from store.errors import InputError, StoreError

RATE = 16_000  # Hz
SIZES = ((160, 120), (192, 144), (256, 192), (144, 192), (144, 256))  # width, height
FRAME_RATES = (10, 12, 15, 20, 24)
FAULTS = ("truncated", "garbage", "zero-bytes")
Progress = Callable[..., None]


def _silent(done: int, total: int, message: str = "") -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipSpec:
    """One clip to render: a row of the manifest and what decides its looks and sound."""

    path: str
    label: str
    group: str
    split: str
    seconds: float
    fps: int
    width: int
    height: int
    sound: str  # "yes" or "no"
    fault: str  # one of FAULTS, or nothing
    looks: tuple[float, ...]
    sounds: tuple[float, ...]
    noise: float
    group_seed: tuple[int, ...]
    clip_seed: tuple[int, ...]
    directory: str


COLUMNS = (
    "path", "label", "group", "split", "seconds", "fps", "width", "height", "sound", "fault",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Settings of a rendered dataset. Splits share no class: about 60, 15 and 25 % of them."""

    classes: int = 20
    clips: int = 20  # of each class
    seed: int = 0
    seconds: float = 3.0
    visual: float = 1.0  # how much pictures tell of the class, 0 to 1
    audio: float = 1.0  # how much sound tells of it
    noise: float = 0.1  # in both
    silent: float = 0.0  # share of clips without a sound track
    broken: float = 0.0  # share of damaged files
    groups: int = 5  # of look-alike clips in each class

    @property
    def counts(self) -> dict[str, int]:
        """The settings that count something."""
        return {"classes": self.classes, "clips": self.clips, "groups": self.groups}

    @property
    def fractions(self) -> dict[str, float]:
        """The settings between 0 and 1."""
        return {name: getattr(self, name) for name in FRACTIONS}


FRACTIONS = ("visual", "audio", "noise", "silent", "broken")


def _refuse_unrendered(outcome: Outcome, path: str, directory: Path) -> None:
    if not outcome.value:
        raise StoreError(
            f"cannot render {path}: {outcome.detail}; see whether {directory} has room and can be "
            "written to"
        )


def render(
    directory: Path | str, *, workers: int = 0, progress: Progress = _silent, **settings: Any
) -> Path:
    """Render clips into a new directory, `settings` being those of `Rendering`.

    Returns the path of the manifest.

    Raises:
        InputError: a value out of bounds, or a directory that holds something.
    """
    directory, rendering = Path(directory), Rendering(**settings)
    _check(directory, rendering.counts, rendering.fractions, rendering.seconds, rendering.seed)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        specs = _clip_specs(
            staging,
            rendering.classes,
            rendering.clips,
            rendering.groups,
            rendering.seed,
            rendering.seconds,
            rendering.fractions,
        )
        for spec in specs:
            (staging / spec.path).parent.mkdir(parents=True, exist_ok=True)
        outcomes = process_map(
            _render_clip,
            specs,
            workers=workers or os.cpu_count() or 1,
            limits=Limits(deadline_seconds=600.0, sandbox=OFF),  # writes, and reads nobody's files
        )
        with closing(outcomes):
            for done, (spec, outcome) in enumerate(zip(specs, outcomes, strict=True), 1):
                _refuse_unrendered(outcome, spec.path, directory)
                progress(done, len(specs))
        with (staging / "manifest.csv").open("w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            rows.writeheader()
            rows.writerows(asdict(spec) for spec in specs)
        staging.chmod(0o755)
        staging.rename(directory)  # also over an empty one
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return directory / "manifest.csv"


def _check(
    directory: Path,
    counts: dict[str, int],
    fractions: dict[str, float],
    seconds: float,
    seed: int,
) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is there and not empty; name a new directory")
    for name, count in counts.items():
        if not 1 <= count <= 10_000:
            raise InputError(f"{name}={count} must be between 1 and 10000")
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise InputError(f"{name}={fraction:g} must be between 0 and 1")
    if not 0.3 <= seconds <= 60:
        raise InputError(f"seconds={seconds:g} must be between 0.3 and 60")
    if seed < 0:
        raise InputError(f"seed={seed} must not be negative")


def _clip_specs(
    directory: Path,
    classes: int,
    clips: int,
    groups: int,
    seed: int,
    seconds: float,
    fractions: dict[str, float],
) -> list[_ClipSpec]:
    """Everything about every clip, drawn before any is rendered."""
    rng = np.random.default_rng([seed, 1])
    homes = _coordinates(classes, len(LOOKS + SOUNDS), rng)
    splits = split_of_classes(classes, rng)
    total = classes * clips
    mute, faulty = (
        set(rng.permutation(total)[: round(fractions[name] * total)].tolist())
        for name in ("silent", "broken")
    )
    specs = []
    for number, (label, clip) in enumerate(product(range(classes), range(clips))):
        own = np.random.default_rng([seed, 2, label, clip])
        knobs = np.repeat([fractions["visual"], fractions["audio"]], [len(LOOKS), len(SOUNDS)])
        point = (homes[label] + (1 - knobs) * own.uniform(-0.5, 0.5, len(knobs))) % 1.0
        width, height = SIZES[own.integers(len(SIZES))]
        name, group = f"class_{label:03}", clip % groups
        specs.append(
            _ClipSpec(
                path=f"videos/{name}/{name}_{clip:04}.mp4",
                label=name,
                group=f"{name}_g{group:02}",
                split=splits[label],
                seconds=round(float(seconds * own.uniform(2 / 3, 4 / 3)), 3),
                fps=int(own.choice(FRAME_RATES)),
                width=width,
                height=height,
                sound="no" if number in mute else "yes",
                fault=FAULTS[number % len(FAULTS)] if number in faulty else "",
                looks=tuple(point[: len(LOOKS)].tolist()),
                sounds=tuple(point[len(LOOKS) :].tolist()),
                noise=fractions["noise"],
                group_seed=(seed, 3, label, group),
                clip_seed=(seed, 4, label, clip),
                directory=str(directory),
            )
        )
    return specs


def _coordinates(points: int, axes: int, rng: np.random.Generator) -> Float[np.ndarray, "_ K"]:
    """Points spread evenly over the torus.

    Source: Roberts (2018), the R_d sequence: steps that are powers of the generalised golden ratio.
    """
    ratio = 1.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (axes + 1))
    steps = ratio ** -np.arange(1.0, axes + 1)
    return (rng.random(axes) + np.arange(1, points + 1)[:, None] * steps) % 1.0


def split_of_classes(classes: int, rng: np.random.Generator) -> list[str]:
    """A split for every class; from ten classes on, at least five are for testing."""
    test = max(round(0.25 * classes), 5 if classes >= 10 else min(1, classes - 1))
    val = min(round(0.15 * classes), classes - test - 1)
    names = ["test"] * test + ["val"] * val + ["train"] * (classes - test - val)
    return [names[i] for i in rng.permutation(classes)]


def _render_clip(spec: _ClipSpec) -> bool:
    """Write one clip's file."""
    path = Path(spec.directory) / spec.path
    rng = np.random.default_rng(spec.clip_seed)
    group = np.random.default_rng(spec.group_seed)
    film = scene.pictures(
        spec.looks,
        seconds=spec.seconds,
        fps=spec.fps,
        size=(spec.width, spec.height),
        noise=spec.noise,
        group=group,
        rng=rng,
    )
    waveform = scene.sound(
        spec.sounds, seconds=spec.seconds, rate=RATE, noise=spec.noise, group=group, rng=rng
    )
    _write(path, film, spec.fps, waveform if spec.sound == "yes" else None)
    if spec.fault == "truncated":
        path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    elif spec.fault == "garbage":
        path.write_bytes(rng.bytes(path.stat().st_size))
    elif spec.fault == "zero-bytes":
        path.write_bytes(b"")
    return True


def _write(
    path: Path,
    pictures: UInt8[np.ndarray, "T H W 3"],
    fps: int,
    sound: Float32[np.ndarray, "S"] | None,
) -> None:
    """An mp4 with H.264 and, if there is sound, AAC; the same bytes every time."""
    height, width = pictures.shape[1:3]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        video = out.add_stream("libx264", rate=fps, options={"preset": "superfast", "crf": "28"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1  # the number of threads decides the bytes
        packets = []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            packets += video.encode(frame)
        packets += video.encode(None)
        if sound is not None:
            track = out.add_stream("aac", rate=RATE, options={"b": "64k"})
            track.codec_context.layout = "mono"
            for start in range(0, len(sound), 1024):
                piece = np.ascontiguousarray(sound[None, start : start + 1024])
                samples = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
                samples.sample_rate, samples.pts = RATE, start
                samples.time_base = Fraction(1, RATE)
                packets += track.encode(samples)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
