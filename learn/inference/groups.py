"""`learn groups`: which clips are of one source, found from their files and stored features.

Exact copies have one digest of their media. Near copies (encoded again, cropped, mirrored, overlaid
or cut shorter) look alike frame by frame, or sound alike; see `learn.inference.linkage`. Clips are
in one group that any of the three connects. Clips whose rows tell nothing, as silence, are not
compared by that sense.
"""

import csv
import io
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.data.features import SENSED, choose_feature
from learn.data.group_file import GROUP
from learn.inference.linkage import RATIO, Background, Sense, joined, sense
from learn.inference.signatures import signatures
from store import atomic
from store import open as open_store
from store.errors import ConfigError, InputError, choices

if TYPE_CHECKING:
    from store import Feature, Manifest, Store

DIGEST, SIGHT, SOUND = "digest", "sight", "sound"
REASONS = (DIGEST, SIGHT, SOUND)
SENSE_OF = dict(zip(SENSED, (SIGHT, SOUND), strict=True))
FEWEST = 3  # clips that can be told apart from one another

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """How the clips were compared by one sense."""

    feature: str
    clips: int
    plain: int  # whose rows tell nothing
    background: Background

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON has it."""
        told = {"feature": self.feature, "clips": self.clips, "plain": self.plain}
        return {**told, **self.background.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups that were written."""

    store: str
    output: str
    clips: int
    groups: int
    grouped: int  # clips in a group of two or more
    sizes: Mapping[int, int]  # groups by number of clips
    reasons: Mapping[str, int]  # grouped clips by what connects them
    compared: Mapping[str, Compared]  # by sense
    known: Mapping[str, float | int] | None  # against the manifest's column `group`, pair by pair
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn groups --json` prints."""
        return {
            "store": self.store,
            "output": self.output,
            "clips": self.clips,
            "groups": self.groups,
            "grouped": self.grouped,
            "sizes": {str(size): n for size, n in sorted(self.sizes.items())},
            "reasons": dict(self.reasons),
            "compared": {sense: own.to_dict() for sense, own in self.compared.items()},
            "known": None if self.known is None else dict(self.known),
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
        }


def groups(
    store_path: str | Path,
    output: str | Path,
    *,
    by: Sequence[str] = REASONS,
    visual: str | None = None,
    audio: str | None = None,
    ratio: float = RATIO,
    seed: int = 0,
    progress: Progress | None = None,
) -> Groups:
    """Write which clips of a store are of one source, as `clip_id,group,reason,score`.

    The group of a clip without copies is empty. `score` is 1 for the same file, else by how much
    nearer the nearest copy is than the clip's surroundings.

    >>> learn.groups("my_store", "groups.csv", by=["digest"]).clips
    120

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    begun = time.monotonic()
    output = check_groups(output, by, ratio)
    store = open_store(store_path)
    manifest = store.manifest()
    features = dict(_features(store, by, visual, audio))
    if not features:
        raise InputError("the store has no feature to compare by; run: extract run MANIFEST")
    position = {clip: i for i, clip in enumerate(manifest.clip_ids)}
    same = list(_same_files(features.values(), position)) if DIGEST in by else []
    senses: dict[str, Sense] = {}
    plain, notes = Counter[str](), list[str]()
    for done, (modality, feature) in enumerate(features.items()):
        name = SENSE_OF[modality]
        if name not in by:
            continue
        if progress:
            progress(done, len(features), f"comparing by {name}")
        of = signatures(feature, position, seed)
        plain[name] = int(of.plain.sum())
        usable = of.keep(~of.plain)
        if len(usable) < FEWEST:
            notes.append(f"{len(usable)} clips can be compared by {name}: too few, left out")
            continue
        senses[name] = sense(usable, len(manifest), ratio, seed)
    number = joined(len(manifest), same, list(senses.values()), seed)
    scores = _scores(number, same, senses)
    atomic.write_text(output, _table(manifest, number, scores), replace=False)
    sizes = Counter(Counter(number[number >= 0].tolist()).values())
    return Groups(
        store=str(store_path), output=str(output), clips=len(manifest),
        groups=sum(sizes.values()), grouped=int((number >= 0).sum()), sizes=sizes,
        reasons=dict(Counter(_reason(scores[i]) for i in np.flatnonzero(number >= 0).tolist())),
        compared={
            name: Compared(
                feature=features[SENSED[list(SENSE_OF.values()).index(name)]].name,
                clips=len(own.of), plain=plain[name], background=own.background,
            )
            for name, own in senses.items()
        },
        known=_against_known(manifest, number),
        seconds=time.monotonic() - begun, notes=tuple(notes),
    )  # fmt: skip


def check_groups(output: str | Path, by: Sequence[str], ratio: float) -> Path:
    """Refuse what cannot be asked; returns the output's path.

    Raises:
        ConfigError, InputError: says what to do.
    """
    output = Path(output)
    if wrong := [name for name in by if name not in REASONS]:
        raise ConfigError(f"`by` {wrong[0]!r} is none of {choices(wrong[0], REASONS)}")
    if not by:
        raise ConfigError(f"`by` names nothing; there are {', '.join(REASONS)}")
    if not 0 < ratio < 1:
        raise ConfigError(f"`ratio` {ratio:g} is not above 0 and below 1, as {RATIO:g}")
    if output.suffix.lower() != ".csv":
        raise InputError(f"{output} is not called .csv, which is what is written")
    if output.exists():
        raise InputError(f"{output} exists; move it away or write another file")
    if not output.absolute().parent.is_dir():
        raise InputError(f"no directory {output.absolute().parent} to write {output.name} to")
    return output


def _scores(
    number: np.ndarray, same: Sequence[Sequence[int]], senses: Mapping[str, Sense]
) -> Mapping[int, Mapping[str, float]]:
    """What connects each clip to others of its group, and how near the nearest of them is."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for clips in same:
        for clip in clips:
            found[clip][DIGEST] = 1.0
    for name, own in senses.items():
        within = number[own.pairs[:, 0]] == number[own.pairs[:, 1]]
        within &= number[own.pairs[:, 0]] >= 0
        nearest = np.full(len(number), np.inf)
        for side in (0, 1):
            np.minimum.at(nearest, own.pairs[within, side], own.ratios[within])
        for clip in np.flatnonzero(np.isfinite(nearest)).tolist():
            found[clip][name] = float(np.clip(1 - nearest[clip], 0, 1))
    return found


def _reason(scores: Mapping[str, float]) -> str:
    return "+".join(name for name in REASONS if name in scores)


def _features(
    store: "Store", by: Sequence[str], visual: str | None, audio: str | None
) -> Iterator[tuple[str, "Feature"]]:
    """The features to compare by; digests of media lie beside any."""
    for modality, name in zip(SENSED, (visual, audio), strict=True):
        if name is None and not any(store[n].modality == modality for n in store.features):
            continue
        if SENSE_OF[modality] in by or DIGEST in by:
            yield modality, choose_feature(store, modality, name)


def _same_files(features: Iterable["Feature"], position: Mapping[str, int]) -> Iterator[list[int]]:
    """Clips whose media have one digest: copies of a file, and pieces of one."""
    of_digest: dict[bytes, dict[int, None]] = defaultdict(dict)
    for feature in features:
        for part in feature.parts():
            for clip, digest in zip(part.clip_ids, part.media_sha256, strict=True):
                if clip in position and digest.any():
                    of_digest[digest.tobytes()][position[clip]] = None
    yield from (list(clips) for clips in of_digest.values() if len(clips) > 1)


def _table(
    manifest: "Manifest", number: np.ndarray, scores: Mapping[int, Mapping[str, float]]
) -> str:
    """The groups as CSV, in the order of the manifest."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("clip_id", GROUP, "reason", "score"))
    width = len(str(max(int(number.max(initial=0)), 0)))
    for i, clip in enumerate(manifest.clip_ids):
        if number[i] < 0:
            table.writerow((clip, "", "", ""))
            continue
        score = f"{max(scores[i].values()):.3f}"
        table.writerow((clip, f"s{number[i]:0{width}d}", _reason(scores[i]), score))
    return text.getvalue()


def _against_known(manifest: "Manifest", number: np.ndarray) -> dict[str, float | int] | None:
    """How pairs of one group agree with those of the manifest's column `group`."""
    if GROUP not in manifest.columns or not any(manifest.column(GROUP)):
        return None
    cells = manifest.column(GROUP)
    known = [("of", cell) if cell else ("alone", str(i)) for i, cell in enumerate(cells)]
    own = [("of", str(n)) if n >= 0 else ("alone", str(i)) for i, n in enumerate(number.tolist())]
    in_known, in_own, in_both = (
        sum(n * (n - 1) // 2 for n in Counter(keys).values())
        for keys in (known, own, list(zip(known, own, strict=True)))
    )
    return {
        "pairs_known": in_known,
        "pairs_found": in_own,
        "pairs_in_both": in_both,
        "recall": in_both / max(in_known, 1),
        "precision": in_both / in_own if in_own else 1.0,
    }
