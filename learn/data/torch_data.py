"""Clips of a store for loops of anybody's: a torch `Dataset`, and an `IterableDataset` for more
than fits in memory; `collate` makes padded batches with masks of either.

    clips = learn.to_torch("my_store", split="train")
    loader = DataLoader(clips, batch_size=64, shuffle=True, collate_fn=learn.collate)
    for batch in loader:
        batch["visual"], batch["visual_mask"], batch["label"]

An item is a dictionary: `clip_id`, `label` (the number of its class, -1 for none) and for each
modality its rows, `visual` [T, D], with their `visual_seconds` [T]. A modality that a clip lacks
has no rows, so that nothing is made up: its mask is empty.

Shapes: B = clips, T = rows of a clip, D = embedding size.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

import store
from learn.data.features import MODALITIES, choose_feature
from store import Feature, Manifest, Store
from store.errors import ConfigError, InputError
from store.features.packed import Packed
from store.features.streaming import MEMORY_BYTES

Item = dict[str, Any]
_NO_EPOCH = -1


class _Clips:
    """Which clips, features and labels an item has."""

    def __init__(self, features: Mapping[str, Feature], table: Manifest, label: str | None) -> None:
        self.features = dict(features)
        self.clip_ids = table.clip_ids
        names = ("",) * len(table) if label is None else table.column(label)
        self.classes = sorted(set(names) - {""})
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = [number.get(name, -1) for name in names]

    def __getstate__(self) -> dict[str, Any]:
        """Workers that are started anew open the store for themselves."""
        places = {m: (feature.location, feature.name) for m, feature in self.features.items()}
        return {**self.__dict__, "features": places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self.features = {m: store.open(at)[name] for m, (at, name) in state["features"].items()}

    def item(self, position: int, packed: Mapping[str, Packed], at: Mapping[str, int]) -> Item:
        """One clip, from the memory that holds it."""
        item: Item = {"clip_id": self.clip_ids[position], "label": self.labels[position]}
        for modality, clips in packed.items():
            i = at[modality]
            rows = slice(int(clips.offsets[i]), int(clips.offsets[i + 1]))
            item[modality] = torch.from_numpy(clips.values[rows].astype(np.float32))
            item[f"{modality}_seconds"] = torch.from_numpy(
                (clips.time_ms[rows] / 1000).astype(np.float32)
            )
        return item


class ClipDataset(Dataset):
    """Clips in memory, one item each: `len`, items by number, any sampler."""

    def __init__(self, clips: _Clips, *, verify: bool = True) -> None:
        self._clips = clips
        self.classes, self.clip_ids, self.labels = clips.classes, clips.clip_ids, clips.labels
        self._packed = {
            modality: feature.packed(clips.clip_ids, verify=verify)
            for modality, feature in clips.features.items()
        }

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, index: int) -> Item:
        position = index if index >= 0 else index + len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return self._clips.item(position, self._packed, dict.fromkeys(self._packed, position))


class ClipStream(IterableDataset):
    """Clips read in blocks of at most `memory_bytes` in the order of the disk, each clip once.

    With a `seed` parts come in random order and clips shuffled within a block, differently in each
    epoch: that of `set_epoch`, or the next at every pass. Workers of a `DataLoader` take turns by
    blocks; where nobody sets an epoch, theirs follow torch's own seed, which the loader hands on,
    and the passes that workers which stay (`persistent_workers`) have made.
    """

    def __init__(
        self, clips: _Clips, *, seed: int | None, memory_bytes: int = MEMORY_BYTES,
        verify: bool = True,
    ) -> None:  # fmt: skip
        self._clips, self._seed, self._verify = clips, seed, verify
        self._memory_bytes = memory_bytes
        # Of which workers see the changes, also those that were started before.
        self._epoch = torch.tensor(_NO_EPOCH)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._passes = 0
        self.classes, self.clip_ids, self.labels = clips.classes, clips.clip_ids, clips.labels
        self._position = {clip_id: i for i, clip_id in enumerate(clips.clip_ids)}

    def __len__(self) -> int:
        return len(self.clip_ids)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass have the order of this epoch.

        Raises:
            ConfigError: a negative one.
        """
        if epoch < 0:
            raise ConfigError(f"epoch={epoch} is negative; epochs count from 0")
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        first, *others = self._clips.features.values()
        names = list(self._clips.features)
        epoch = int(self._epoch)
        if epoch == _NO_EPOCH:
            epoch = self._passes + (worker.seed - worker.id if worker else 0)  # one for all workers
            self._passes += 1
        seed = None if self._seed is None else _mixed(self._seed, epoch)
        blocks = first.batches(
            self.clip_ids, memory_bytes=self._memory_bytes, seed=seed, verify=self._verify
        )
        for number, block in enumerate(blocks):
            if worker is not None and number % worker.num_workers != worker.id:
                continue
            packed = [block, *(f.packed(block.clip_ids, verify=self._verify) for f in others)]
            of_block = dict(zip(names, packed, strict=True))
            for i, clip_id in enumerate(block.clip_ids):
                yield self._clips.item(
                    self._position[clip_id], of_block, dict.fromkeys(of_block, i)
                )


def _mixed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def to_torch(
    source: "str | Path | Store | Feature",
    *,
    visual: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    label: str | None = "label",
    split: str | None = None,
    manifest: str | Path | None = None,
    stream: bool = False,
    seed: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
    verify: bool = True,
) -> Dataset:  # beartype cannot look into torch's own hint of an `IterableDataset`
    """The clips of a store, or of one feature, as a dataset of torch.

    Of a store, one feature of each modality, named by `visual`, `audio` and `text` where there are
    several.
    Clips are those of the manifest (of `split`, if named); a feature given by itself has all its
    clips, and no labels. `stream` reads in blocks rather than holding everything; its order is
    random with a `seed`.

    >>> clips = learn.to_torch("my_store", split="train")
    >>> sorted(clips[0])
    ['audio', 'audio_seconds', 'clip_id', 'label', 'visual', 'visual_seconds']
    >>> from torch.utils.data import DataLoader
    >>> batch = next(iter(DataLoader(clips, batch_size=4, collate_fn=learn.collate)))
    >>> batch["visual"].shape[0], batch["visual_mask"].dtype
    (4, torch.bool)

    Raises:
        UnknownFeature, UnknownColumn, MissingFile: say what there is.
        InputError: no such split, or no clip.
        ConfigError: a `seed` for what is not streamed: the loader's sampler shuffles that; or a
            negative one.
    """
    if seed is not None and not stream:
        raise ConfigError("seed is of streams; of clips in memory the loader's `shuffle` decides")
    if seed is not None and seed < 0:
        raise ConfigError(f"seed={seed} is negative; name one from 0")
    clips = _clips_of(source, visual, audio, text, label, split, manifest)
    if not clips.clip_ids:
        raise InputError("there is no clip to give")
    if stream:
        return ClipStream(clips, seed=seed, memory_bytes=memory_bytes, verify=verify)
    return ClipDataset(clips, verify=verify)


def _clips_of(
    source: "str | Path | Store | Feature",
    visual: str | None,
    audio: str | None,
    text: str | None,
    label: str | None,
    split: str | None,
    manifest: str | Path | None,
) -> _Clips:
    if isinstance(source, Feature):
        ids = tuple(source.clip_ids)
        return _Clips(
            {source.modality: source}, Manifest(table={"path": ids, "clip_id": ids}), None
        )
    fs = source if isinstance(source, Store) else store.open(source)
    table = store.read_manifest(manifest, ids_suffice=True) if manifest else fs.manifest()
    if split is not None:
        table = table.select(split=split)
    named = dict(zip(MODALITIES, (visual, audio, text), strict=True))
    chosen = {m: feature for m, name in named.items() if (feature := choose_feature(fs, m, name))}
    return _Clips(chosen, table, label)


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """A batch: rows padded with zeros to the longest clip, a mask of those that are real.

    >>> item = {"clip_id": "a", "label": 0, "visual": torch.ones(2, 3)}
    >>> batch = learn.collate([item, {**item, "visual": torch.ones(1, 3)}])
    >>> batch["visual"].shape, batch["visual_mask"].tolist(), batch["label"].tolist()
    (torch.Size([2, 2, 3]), [[True, True], [True, False]], [0, 0])
    """
    batch: dict[str, Any] = {"clip_id": [item["clip_id"] for item in items]}
    batch["label"] = torch.tensor([item["label"] for item in items])
    for key in (key for key in items[0] if key not in batch):
        batch[key] = torch.nn.utils.rnn.pad_sequence(
            [item[key] for item in items], batch_first=True
        )
        if not key.endswith("_seconds"):
            counts = torch.tensor([len(item[key]) for item in items])
            batch[f"{key}_mask"] = torch.arange(batch[key].shape[1]) < counts[:, None]
    return batch
