"""What is asked of a run, checked before torch is imported: a typo is told at once.

The same is found out again by those who do the work; what cannot be known without them, as what a
file of weights holds, is told later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import store
from extract.datasets.source import read_clips
from extract.pipeline.options import Options, readable
from extract.weights.choice import check_encoder
from store import Manifest
from store.errors import InputError

MODALITIES = ("visual", "audio")
SAMPLE_CLIPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The clips that are tried.

    Raises:
        InputError: none.
    """

    clips: int = SAMPLE_CLIPS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise InputError(f"a sample of {self.clips} clips says nothing; take 1 or more")


def check_run(
    manifest: Path | str,
    store_dir: Path | str,
    visual: Sequence[str],
    audio: Sequence[str],
    options: Options,
    *,
    elsewhere: bool = False,
) -> Manifest:
    """The manifest, once all is checked that can be; `elsewhere`, on machines that have the files
    of weights which may not be here.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    for modality, specs in zip(MODALITIES, (visual, audio), strict=True):
        for spec in specs:
            check_encoder(spec, modality, options.precision, elsewhere=elsewhere)
    store.find(store_dir)
    return readable(read_clips(manifest)[0])
