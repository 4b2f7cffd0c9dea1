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

from learn.data.features import MODALITIES, choose_feature
from learn.data.group_file import GROUP
from learn.inference.linkage import RATIO, Background, linked
from learn.inference.signatures import signatures
from store import atomic
from store import open as open_store
from store.errors import ConfigError, InputError, choices

if TYPE_CHECKING:
    from store import Feature, Manifest, Store

DIGEST, SIGHT, SOUND = "digest", "sight", "sound"
REASONS = (DIGEST, SIGHT, SOUND)
SENSE_OF = dict(zip(MODALITIES, (SIGHT, SOUND), strict=True))
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
    known: Mapping[str, float] | None  # against the manifest's column `group`, pair by pair
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

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    begun = time.monotonic()
    output = check_groups(output, by, ratio)
    store = open_store(store_path)
    manifest = store.manifest()
    found = _Found(len(manifest))
    features = dict(_features(store, by, visual, audio))
    if not features:
        raise InputError("the store has no feature to compare by; run: extract run MANIFEST")
    position = {clip: i for i, clip in enumerate(manifest.clip_ids)}
    if DIGEST in by:
        for members in _same_files(features.values(), position):
            found.join(members, DIGEST, np.ones(len(members)))
    compared, notes = {}, []
    for done, (modality, feature) in enumerate(features.items()):
        sense = SENSE_OF[modality]
        if sense not in by:
            continue
        if progress:
            progress(done, len(features), f"comparing by {sense}")
        of = signatures(feature, position, seed)
        usable = of.keep(~of.plain)
        if len(usable) < FEWEST:
            notes.append(f"{len(usable)} clips can be compared by {sense}: too few, left out")
            continue
        result = linked(usable, ratio, seed)
        for members in result.groups:
            found.join(usable.clips[members], sense, 1 - result.ratio[members])
        compared[sense] = Compared(
            feature=feature.name, clips=len(usable), plain=int(of.plain.sum()),
            background=result.background,
        )  # fmt: skip
    number = found.numbers()
    atomic.write_text(output, _table(manifest, number, found), replace=False)
    sizes = Counter(Counter(number[number >= 0].tolist()).values())
    return Groups(
        store=str(store_path), output=str(output), clips=len(manifest),
        groups=sum(sizes.values()), grouped=int((number >= 0).sum()), sizes=sizes,
        reasons=dict(Counter(found.reason(i) for i in np.flatnonzero(number >= 0).tolist())),
        compared=compared, known=_against_known(manifest, number),
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


class _Found:
    """Clips that something connects."""

    def __init__(self, clips: int) -> None:
        self._parent = list(range(clips))
        self.scores: dict[int, dict[str, float]] = defaultdict(dict)

    def _root(self, clip: int) -> int:
        while self._parent[clip] != clip:
            self._parent[clip] = self._parent[self._parent[clip]]
            clip = self._parent[clip]
        return clip

    def join(self, clips: Sequence[int] | np.ndarray, reason: str, scores: np.ndarray) -> None:
        """Put clips into one group."""
        first = self._root(int(clips[0]))
        for clip, score in zip(map(int, clips), scores.tolist(), strict=True):
            self._parent[self._root(clip)] = first
            self.scores[clip][reason] = max(score, 0.0)

    def numbers(self) -> np.ndarray:
        """The number of each clip's group, in the order of their first clips; -1 without one."""
        number = np.full(len(self._parent), -1)
        known: dict[int, int] = {}
        for clip in sorted(self.scores):
            number[clip] = known.setdefault(self._root(clip), len(known))
        return number

    def reason(self, clip: int) -> str:
        """What connects a clip to others."""
        return "+".join(name for name in REASONS if name in self.scores[clip])


def _features(
    store: "Store", by: Sequence[str], visual: str | None, audio: str | None
) -> Iterator[tuple[str, "Feature"]]:
    """The features to compare by; digests of media lie beside any."""
    for modality, name in zip(MODALITIES, (visual, audio), strict=True):
        if name is None and not any(store[n].modality == modality for n in store.features):
            continue
        if SENSE_OF[modality] in by or DIGEST in by:
            yield modality, choose_feature(store, modality, name)


def _same_files(
    features: Iterable["Feature"], position: Mapping[str, int]
) -> Iterator[list[int]]:
    """Clips whose media have one digest: copies of a file, and pieces of one."""
    of_digest: dict[bytes, dict[int, None]] = defaultdict(dict)
    for feature in features:
        for part in feature.parts():
            for clip, digest in zip(part.clip_ids, part.media_sha256, strict=True):
                if clip in position and digest.any():
                    of_digest[digest.tobytes()][position[clip]] = None
    yield from (list(clips) for clips in of_digest.values() if len(clips) > 1)


def _table(manifest: "Manifest", number: np.ndarray, found: _Found) -> str:
    """The groups as CSV, in the order of the manifest."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("clip_id", GROUP, "reason", "score"))
    width = len(str(max(int(number.max(initial=0)), 0)))
    for i, clip in enumerate(manifest.clip_ids):
        if number[i] < 0:
            table.writerow((clip, "", "", ""))
            continue
        score = max(found.scores[i].values())
        table.writerow((clip, f"s{number[i]:0{width}d}", found.reason(i), f"{score:.3f}"))
    return text.getvalue()


def _against_known(manifest: "Manifest", number: np.ndarray) -> dict[str, float] | None:
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
