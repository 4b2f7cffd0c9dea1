"""The runs, features and pairs of modes that a call is about: those asked for, or all there are.

Shapes: V = clips, D = size of a vector.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from learn.data.devices import CPU
from learn.data.features import MODALITIES, TEXT, FeatureNames, choose_feature, names_of
from learn.data.rows import Rows
from learn.fewshot import modes
from learn.inference.scarce_text import ScarceText, scarce_text
from learn.training.runs import Run, load_run
from store.errors import InputError

if TYPE_CHECKING:
    from store import Feature, Store

Asked = Callable[[], "Iterable[tuple[Store | None, Sequence[str]]]"]
NONE = "none"  # the projection that is none: stored vectors as they are


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The projections, features and pairs of modes that a call compares."""

    runs: Mapping[str, Run | None]  # by projection; None for stored vectors
    features: Mapping[str, "Feature"]  # by sense: those that decide which clips are scored
    cells: Sequence[tuple[str, str]]  # modes of support and query
    scarce: ScarceText | None = None  # text that was not looked at, since few clips have any


def select(
    store: "Store",
    runs: Mapping[str, Run | None],
    *,
    visual: FeatureNames = None,
    audio: FeatureNames = None,
    text: FeatureNames = None,
    support: Sequence[str] = (),
    query: Sequence[str] = (),
    extra_shots: bool = False,
    asked_about: Asked | None = None,
) -> Selection:
    """The pairs of modes asked for, or all that every projection knows, and their features.

    With `extra_shots` a head learns from the modality beside the mode as well, so features that no
    mode needs stay in play. `asked_about` gives the sets of clips of the call: text that neither
    modes, features nor runs name is left alone where too few of them have any.

    Raises:
        InputError: a feature or modality that is not there, or one that a run was not trained on.
        ConfigError: an unknown mode.
    """
    asked = dict(zip(MODALITIES, (visual, audio, text), strict=True))
    if (support or query) and not extra_shots:
        needed = modalities_of(modes.cells(support, query, ()))
        asked = {modality: name for modality, name in asked.items() if modality in needed}
    features = features_of(store, runs, asked)
    scarce = None
    if asked_about and not (support or query or text or any(map(_knows_text, runs.values()))):
        scarce = scarce_text(features, asked_about()) if TEXT in features else None
    if scarce:
        features = {s: f for s, f in features.items() if modes.modality_of(s) != TEXT}
    shared = _shared(features, runs)
    cells = modes.cells(support, query, shared)
    kept = shared if extra_shots else ()
    in_sight = in_play(features, cells, kept=kept)
    return Selection(runs=runs, features=in_sight, cells=cells, scarce=scarce)


def select_one(
    store: "Store",
    projection: str,
    run: Run | None,
    *,
    visual: FeatureNames = None,
    audio: FeatureNames = None,
    text: FeatureNames = None,
    given: Sequence[str] = (),
) -> Selection:
    """One projection, and the pair of the modes `given`; of several possible ones the richest.

    Raises:
        InputError, ConfigError: as `select`.
    """
    asked = dict(zip(MODALITIES, (visual, audio, text), strict=True))
    features = features_of(store, {projection: run}, asked)
    usable = _shared(features, {projection: run})
    cell = (modes.cells(given[:1], given[1:], usable) or [("v", "v")])[-1]
    features = in_play({modality: features[modality] for modality in usable}, [cell])
    return Selection(runs={projection: run}, features=features, cells=[cell])


def _knows_text(run: Run | None) -> bool:
    """Whether a run was trained on text."""
    return run is not None and bool(run.features_of(TEXT))


def _shared(features: Collection[str], runs: Mapping[str, Run | None]) -> list[str]:
    """The senses that every run knows."""
    trained = [run.features for run in runs.values() if run]
    return [sense for sense in features if all(sense in known for known in trained)]


def runs_of(projections: Sequence[str | Path], device: torch.device = CPU) -> dict[str, Run | None]:
    """The runs of these directories by name, each once, to embed on that device; "none", or no
    name, is stored vectors."""
    paths = dict.fromkeys(map(str, projections or (NONE,)))
    runs = {path: None if path == NONE else load_run(Path(path)) for path in paths}
    for run in filter(None, runs.values()):
        run.space.to(device)
    return runs


def features_of(
    store: "Store", runs: Mapping[str, Run | None], asked: Mapping[str, FeatureNames]
) -> dict[str, "Feature"]:
    """The features of each modality by sense: asked for, trained on by a run, or the only one.

    Raises:
        InputError: several of a modality beside a run, which was trained on others.
    """
    chosen = {}
    for modality, asked_for in asked.items():
        names = names_of(asked_for)
        trained = [of for run in runs.values() if run and (of := run.features_of(modality))]
        for of in trained:
            if len(names) > 1 and names != of:
                raise InputError(
                    f"a projection was trained on {' and '.join(of)}, and {', '.join(names)} are "
                    "named; name those, or leave `projection` out"
                )
        stored = next((of for of in trained if set(of) <= set(store.features)), (None,))
        known = [choose_feature(store, modality, name) for name in names or stored]
        for sense, feature in zip(modes.named(modality, len(known)), known, strict=True):
            if feature is None:
                continue
            for run in filter(None, runs.values()):
                run.check(feature)
            chosen[sense] = feature
    return chosen


def same_feature(store: "Store", name: str) -> "Feature":
    """The feature of the same name in another store.

    Raises:
        InputError: there is none, so rows could not be compared.
    """
    if name not in store.features:
        raise InputError(
            f"{store.path} has no feature {name}, so its clips cannot be compared; extract it "
            f"there with the same encoder and settings (it has: {', '.join(store.features)})"
        )
    return store[name]


def modalities_of(cells: Sequence[tuple[str, str]]) -> set[str]:
    """The modalities that the modes of these pairs look at."""
    return {modality for cell in cells for mode in cell for modality in modes.MODES[mode]}


def in_play(
    features: Mapping[str, "Feature"],
    cells: Sequence[tuple[str, str]],
    *,
    kept: Collection[str] = (),
) -> dict[str, "Feature"]:
    """The features that some mode needs, and those `kept`: only they decide which clips count.

    Raises:
        InputError: no mode at all, or one whose feature the store does not have.
    """
    needed = modalities_of(cells)
    if not needed:
        raise InputError("no feature to score; run: extract run MANIFEST")
    if missing := sorted(needed - set(map(modes.modality_of, features))):
        what = missing[0]
        command = "text CSV --store DIR" if what == TEXT else f"run MANIFEST --{what} SPEC"
        raise InputError(
            f"the modes asked for need {what} features, and the store has none; run: "
            f"extract {command}"
        )
    return {
        sense: feature
        for sense, feature in features.items()
        if modes.modality_of(sense) in needed or sense in kept
    }


def vectors_of(rows: Mapping[str, Rows], run: Run | None) -> dict[str, Float[Tensor, "V _"]]:
    """One vector per clip and sense, sight first: the mean row, or a unit vector in the common
    space."""
    found = {m: stored.means() for m, stored in rows.items()} if run is None else run.embed(rows)
    first = [name for m in MODALITIES for name in found if modes.modality_of(name) == m]
    return {name: found[name] for name in [*first, *(n for n in found if n not in first)]}


def vectors_on(
    device: torch.device, rows: Mapping[str, Rows], run: Run | None
) -> dict[str, Float[Tensor, "V _"]]:
    """The same vectors, on that device."""
    return {name: x.to(device) for name, x in vectors_of(rows, run).items()}


def absolute(path: str | Path) -> str:
    """A path that holds wherever it is read; an address such as s3://… stays as it is."""
    return str(path) if "://" in str(path) else str(Path(path).resolve())
