"""Options of a run: machine, decoder, deadlines, sizes. Nothing here is part of a feature's
identity but the decoder.
"""

import os
from dataclasses import dataclass, replace

from extract.media.clip import DECODERS
from extract.processes.sandbox import check_mode
from extract.weights.by_name import Fetching
from store import Manifest, Status
from store.errors import ConfigError, InputError, choices

CLIPS_PER_UNIT = {"cpu": 64, "cuda": 512}  # about a minute's work: what a kill may cost
PRECISIONS = ("auto", "fp32", "bf16")
BATCH_SIZE = {"cpu": 16, "cuda": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a run; `resolved` fills in what is 0 or `auto`."""

    device: str = "auto"
    precision: str = "auto"
    workers: int = 0  # decode processes
    decoder: str = "auto"  # has the pixels of `pyav` within a tolerance
    follow_links: bool = False  # also where they lead out of the manifest's folder
    sandbox: str = "auto"  # of the decode processes; or "off" or "require"
    deadline_seconds: float = 60.0
    unit_deadline_seconds: float = 900.0  # on a cluster: without a clip of the unit
    retry: tuple[str, ...] = ()  # kinds of failed clips that are tried again
    max_failures: float = 0.05
    clips_per_unit: int = 0
    batch_size: int = 0
    offline: bool = False  # weights that are named and not here are an error
    accept_unverified: bool = False  # of weights whose digest nobody states, believe what comes

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ConfigError(
                f"no decoder {self.decoder!r}; there are {choices(self.decoder, DECODERS)}"
            )
        check_mode(self.sandbox)
        if self.decoder.startswith("torchcodec"):
            # Here, as a scheduler that unpacks these options has no need of PyAV.
            from extract.media import torchcodec_reader

            torchcodec_reader.check(self.decoder, self.sandbox)
        if self.device != "auto" and self.device.partition(":")[0] not in BATCH_SIZE:
            raise ConfigError(
                f"no device {self.device!r}; write {', '.join(['auto', *BATCH_SIZE])}"
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"no precision {self.precision!r}; there are {choices(self.precision, PRECISIONS)}"
            )
        if not 0 <= self.workers <= 1024:
            raise InputError(f"workers={self.workers} must be between 0 (one per core) and 1024")
        if not 0 < self.deadline_seconds <= 86_400:
            raise InputError(
                f"deadline_seconds={self.deadline_seconds:g} must be above 0, at most 86400"
            )
        if not 0 < self.unit_deadline_seconds <= 604_800:
            raise InputError(
                f"unit_deadline_seconds={self.unit_deadline_seconds:g} must be above 0, at most "
                "604800"
            )
        if not 0 <= self.max_failures <= 1:
            raise InputError(f"max_failures={self.max_failures:g} is a share between 0 and 1")
        if not 0 <= self.clips_per_unit <= 65_536:
            raise InputError(
                f"clips_per_unit={self.clips_per_unit} must be between 0 (auto) and 65536"
            )
        if not 0 <= self.batch_size <= 65_536:
            raise InputError(f"batch_size={self.batch_size} must be between 0 (auto) and 65536")
        for kind in self.retry:
            _failure(kind)

    @property
    def fetching(self) -> Fetching:
        """How weights that are named may be had."""
        return Fetching(offline=self.offline, accept_unverified=self.accept_unverified)

    @property
    def again(self) -> frozenset[Status]:
        """The statuses of clips that are tried again."""
        return frozenset(map(_failure, self.retry))

    def resolved(self) -> "Options":
        """The options with what is 0 or `auto` filled in for this machine.

        Raises:
            ConfigError: no such device here; nothing runs elsewhere silently.
        """
        import torch

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        family = device.partition(":")[0]
        if family == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device cuda, but torch finds no CUDA device; use cpu or auto")
        return replace(
            self,
            device=device,
            workers=self.workers or cores(),
            clips_per_unit=self.clips_per_unit or CLIPS_PER_UNIT[family],
            batch_size=self.batch_size or BATCH_SIZE[family],
        )


def cores() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def readable(manifest: Manifest) -> Manifest:
    """The manifest, if it says where its files are.

    Raises:
        InputError: it does not.
    """
    if manifest.root is None:
        raise InputError("a manifest kept in a store does not say where its files are; give a file")
    return manifest


def _failure(kind: str) -> Status:
    status = Status.from_kind(kind)
    if not status.failed:
        failures = [s.kind for s in Status if s.failed]
        raise InputError(f"{kind!r} is nothing to try again; there are {choices(kind, failures)}")
    return status
