"""All episodes of one call in one file, so that anything can be scored on them again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialised

from learn.data import records
from learn.data.clips import Clips
from learn.fewshot.tasks import CLASSIC, Episodes
from store import atomic
from store.errors import InputError, MissingFile

FORMAT = "microshot-episodes-1"


def digest(draws: Sequence[Episodes]) -> str:
    """One digest of several draws, in order."""
    return hashlib.sha256("".join(draw.sha256 for draw in draws).encode()).hexdigest()


class _DrawFacts(TypedDict):
    """What the file says of one draw beside its arrays."""

    shots: int
    seed: int
    facts: NotRequired[dict[str, Any]]


def save(path: Path, clips: Clips, draws: Sequence[Episodes]) -> None:
    """Write `draws` of `clips`; the file appears whole or not at all."""
    arrays = {}
    for i, draw in enumerate(draws):
        arrays[f"{i}.indices"], arrays[f"{i}.classes"] = draw.indices, draw.classes
    groups = None if clips.groups is None else clips.groups.tolist()
    metadata = {
        "format": FORMAT,
        "clips": json.dumps(clips.ids),
        "clips_sha256": clips.sha256,
        "labels": json.dumps(_labels(clips)),
        "groups": json.dumps(groups),
        "draws": json.dumps([_draw_facts(draw) for draw in draws]),
        "sha256": digest(draws),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    atomic.write_bytes(path, serialised(plain, metadata=metadata), durable=True)


def _labels(clips: Clips) -> list[str] | list[list[str]]:
    """The label of every clip, or the list of all its labels."""
    if clips.targets is None:
        return [clips.classes[c] for c in clips.class_ids]
    return [[clips.classes[c] for c in np.flatnonzero(row)] for row in clips.targets]


def _draw_facts(draw: Episodes) -> dict[str, Any]:
    facts = {"facts": dict(draw.facts)} if draw.facts else {}
    return {"shots": draw.shots, "seed": draw.seed, **facts}


def labelled(path: Path) -> tuple[list[str], list[str]]:
    """The ids of the clips that episodes were drawn from, and the label of each; `;` separates
    several.

    Raises:
        InputError: it is no such file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            labels = records.checked(json.loads(metadata["labels"]), list[str | list[str]], path)
            ids = records.checked(json.loads(metadata["clips"]), list[str], path)
            records.same_length(path, ids, labels)
            return ids, [x if isinstance(x, str) else ";".join(x) for x in labels]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not an episodes file ({error})") from None


def task_of(path: Path) -> str:
    """The name of the task that the file's episodes were drawn for.

    Raises:
        MissingFile, InputError: as `load`.
    """
    if not path.is_file():
        raise MissingFile(f"no episodes file {path}; write one with `save_episodes`")
    try:
        with safe_open(path, framework="numpy") as file:
            stored = json.loads((file.metadata() or {})["draws"])
        (first, *_) = records.checked(stored, list[_DrawFacts], path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError):
        raise InputError(
            f"{path} is not an episodes file; write one with `save_episodes`"
        ) from None
    return str(first.get("facts", {}).get("task", CLASSIC))


def load(path: Path, clips: Clips) -> tuple[Clips, list[Episodes]]:
    """The clips of the file's episodes, out of `clips`, and the episodes.

    Raises:
        MissingFile: there is no such file.
        InputError: not such a file, changed since it was written, or drawn from other clips.
    """
    if not path.is_file():
        raise MissingFile(f"no episodes file {path}; write one with `save_episodes`")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(f"{path} is not an episodes file; write one with `save_episodes`")
            ids = records.checked(json.loads(metadata["clips"]), list[str], path)
            stored = records.checked(json.loads(metadata["draws"]), list[_DrawFacts], path)
            draws = [
                Episodes(
                    indices=file.get_tensor(f"{i}.indices"),
                    classes=file.get_tensor(f"{i}.classes"),
                    clips_sha256=metadata["clips_sha256"],
                    shots=facts["shots"],
                    seed=facts["seed"],
                    facts=facts.get("facts", {}),
                )
                for i, facts in enumerate(stored)
            ]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not an episodes file ({reason}); draw them again") from None
    beyond = any(
        draw.indices.dtype.kind not in "iu"
        or draw.indices.max(initial=-1) >= len(ids)
        or draw.indices.min(initial=0) < -1  # -1 fills places of uneven episodes
        for draw in draws
    )
    if not draws or beyond or digest(draws) != metadata.get("sha256"):
        raise InputError(f"{path} was changed since it was written: its digest differs; draw again")
    return _same_clips(path, clips, ids, metadata), draws


def _same_clips(path: Path, clips: Clips, ids: list[str], metadata: dict[str, str]) -> Clips:
    if missing := sorted(set(ids) - set(clips.ids)):
        raise InputError(
            f"{len(missing)} of the {len(ids)} clips of {path} are not among those scored here "
            f"(first: {missing[0]!r}): it belongs to another manifest or split, or they lack a "
            "modality asked for; use the same or draw again"
        )
    kept = clips.keep(np.isin(clips.ids, ids))
    if kept.sha256 != metadata["clips_sha256"]:
        labels = _labels(kept) == json.loads(metadata["labels"])
        difference = "groups" if labels else "labels"
        raise InputError(
            f"{path} was drawn with other {difference} for the same clips; use the same or draw "
            "again"
        )
    return kept
