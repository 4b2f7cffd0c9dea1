"""The result of a run: what it did and what bounded it, with the numbers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt64

from extract.processes.sandbox import Confinement
from store import Feature, Status

INTERRUPTED, FAILING = "interrupted", "too many clips failed"


@dataclass(slots=True, kw_only=True)
class Timings:
    """The time of a run by stage. The main thread waits for clips, encodes, or waits for the
    writer, one at a time; decoding and writing go on beside it all the while.
    """

    workers: int
    seconds: float = 0.0
    clips: int = 0
    decode_cpu_seconds: float = 0.0
    waiting: float = 0.0  # seconds the encoders had nothing to do
    encoding: float = 0.0  # seconds they were given work, or that work was waited for
    device: float = 0.0  # seconds a GPU worked on it, told by events; 0 on a processor
    writing: float = 0.0  # seconds they waited for the disk
    committing: float = 0.0  # seconds the writer was busy
    decoder_bytes: int = 0  # the most that a decode process was seen to hold
    confinement: Confinement | None = None  # of all decode processes
    begun: float = field(default_factory=time.perf_counter)

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Add the time spent here to that of a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - begun)

    @property
    def bottleneck(self) -> str:
        """`decode`, `encoder` or `disk`: what the main thread spent most time on or waiting for."""
        if not self.clips:
            return "nothing to do"
        by_cause = {"decode": self.waiting, "encoder": self.encoding, "disk": self.writing}
        return max(by_cause, key=lambda cause: by_cause[cause])

    @property
    def clips_per_second(self) -> float:
        """Clips a second over the whole run."""
        return self.clips / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReport:
    """A feature after the run: what became of the manifest's clips, whenever that was."""

    feature: str
    modality: str
    counts: dict[str, int]  # clips of the manifest by kind
    new: int  # clips committed by this run
    by_others: int  # clips that this run did as well, but another had committed first
    batch_fill: float  # share of the encoder's work that was not padding

    @classmethod
    def of(
        cls,
        feature: Feature,
        keys: UInt64[np.ndarray, "n 2"],
        *,
        new: int,
        by_others: int,
        fill: float,
    ) -> "FeatureReport":
        """The report of one feature."""
        codes, clips = np.unique(feature.status_of_keys(keys), return_counts=True)
        of_code = dict(zip(codes.tolist(), clips.tolist(), strict=True))
        counts = {s.kind: of_code[int(s)] for s in Status if int(s) in of_code}
        return cls(
            feature=feature.name,
            modality=feature.modality,
            counts=counts,
            new=new,
            by_others=by_others,
            batch_fill=fill,
        )

    @property
    def failed(self) -> int:
        """The number of clips that failed."""
        return sum(n for kind, n in self.counts.items() if Status.from_kind(kind).failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The result of `extract run`."""

    features: Sequence[FeatureReport]
    timings: Timings
    max_failures: float = field(default=0.05)
    stopped: str = ""  # why it ended before all was done
    notes: Sequence[str] = ()  # said at the beginning, too

    @property
    def interrupted(self) -> bool:
        """Whether somebody asked it to stop."""
        return self.stopped == INTERRUPTED

    @property
    def failed(self) -> int:
        """Clips that failed, counted once per feature."""
        return sum(report.failed for report in self.features)

    @property
    def findings(self) -> list[str]:
        """Problems to look at, one line each."""
        findings = (
            [f"stopped: {self.stopped}; run the same command to go on"] if self.stopped else []
        )
        for report in self.features:
            total = sum(report.counts.values())
            if report.failed > self.max_failures * total:
                share = report.failed / total
                missing = report.counts.get(Status.MISSING.kind)
                hint = f"; the {missing} missing are tried again once there is a file"
                findings.append(
                    f"{report.feature}: {report.failed} of {total} clips failed ({share:.1%}; "
                    f"at most {self.max_failures:.1%} were expected){hint if missing else ''}"
                )
        return findings

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        timings = self.timings
        evidence = {
            "decode_cpu_seconds": round(timings.decode_cpu_seconds, 3),
            "decode_cpu_seconds_per_clip": round(
                timings.decode_cpu_seconds / timings.clips if timings.clips else 0.0, 4
            ),
            "waiting_for_decode_seconds": round(timings.waiting, 3),
            "encoder_seconds": round(timings.encoding, 3),
            "encoder_gpu_seconds": round(timings.device, 3),
            "waiting_for_disk_seconds": round(timings.writing, 3),
            "commit_seconds": round(timings.committing, 3),
            "batch_fill": {r.feature: round(r.batch_fill, 3) for r in self.features},
            "decoder_bytes": timings.decoder_bytes,
            "workers": timings.workers,
        }
        return {
            "features": [asdict(report) | {"failed": report.failed} for report in self.features],
            "clips": timings.clips,
            "seconds": round(timings.seconds, 3),
            "clips_per_second": round(timings.clips_per_second, 2),
            "bottleneck": timings.bottleneck,
            "evidence": evidence,
            "sandbox": asdict(timings.confinement) if timings.confinement else None,
            "findings": self.findings,
            "notes": list(self.notes),
            "stopped": self.stopped or None,
        }
