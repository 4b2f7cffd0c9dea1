"""Solving `semantic_ridge`: clips of each modality, regressed on vectors of their classes' names.

Names are at length 1, less the mean of the training's: what all names share says nothing of a
class. The map of names that a run keeps does the same to the names of other classes.

What a name is worth in clips is told by classes that a solution did not see: those of the val
split, and some of the training's in turn, left out of a solution of their own.

Shapes: as in the projection.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.data.class_embeddings import ClassEmbeddings
from learn.data.clips import Clips
from learn.fewshot import modes
from learn.fewshot.guard import Worth
from learn.fewshot.heads._transform import is_skewed
from learn.models.embedder import Embedder
from learn.models.projections.semantic_ridge import Config, SemanticRidge
from learn.training import worth_of_names
from learn.training.dataset import TrainingData
from learn.training.objectives._none import NoObjective
from learn.training.worth_of_names import Asked
from store.errors import ConfigError

ROOT = 0.5  # the power of features that are skewed to the right
FEWEST = 6  # classes, for two to ask about and four to regress on
FOLDS, OF_FOLD, ROUNDS = 5, 4, 2  # turns at most, classes left out in one at least, and rounds
_STREAM = 0x7A3E  # of random numbers: which classes are left out together


class Names(NoObjective):
    """The vectors of names as clips are regressed on them."""

    centre: Tensor
    clips: Tensor  # that a name is worth, in each mode; NaN where nothing told it
    classes: Tensor  # that told it

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("clips", torch.full((len(modes.MODES),), torch.nan))
        self.register_buffer("classes", torch.zeros(len(modes.MODES), dtype=torch.long))

    def embed_texts(self, texts: Float[Tensor, "C E"]) -> Float[Tensor, "C E"]:
        """Names at length 1, less the mean of the training's."""
        return F.normalize(texts, dim=-1) - self.centre

    def units(self, texts: Float[Tensor, "C E"]) -> Float[Tensor, "C E"]:
        """The same at length 1."""
        return F.normalize(self.embed_texts(texts), dim=-1)

    def worth(self, mode: str) -> Worth:
        """What a name is worth beside clips seen in this mode."""
        i = list(modes.MODES).index(mode)
        clips = float(self.clips[i])
        return Worth() if np.isnan(clips) else Worth(clips, int(self.classes[i]))


def _centred(texts: Float[Tensor, "C E"]) -> Names:
    """Names less the mean of these."""
    names = Names(texts.shape[1])
    names.centre.copy_(F.normalize(texts, dim=-1).mean(0))
    return names


class _Seen(NamedTuple):
    """One modality's clips, and the map solved from them."""

    means: Float[Tensor, "V D"]
    there: Bool[Tensor, "V"]  # labelled, with rows
    solved: SemanticRidge

    def without(
        self, out: Bool[Tensor, "V"], classes: Int[Tensor, "V"], wanted: Float[Tensor, "C E"]
    ) -> SemanticRidge:
        """The solution from the others."""
        config = Config(dim_out=wanted.shape[1], penalty=self.solved.penalty)
        found, chosen = SemanticRidge(config, self.means.shape[1]), self.there & ~out
        found.solve(self.means[chosen], classes[chosen], wanted, float(self.solved.power))
        return found


def solve(
    embedder: Embedder,
    data: TrainingData,
    val: TrainingData | None,
    known: ClassEmbeddings | None,
    seed: int,
) -> tuple[dict[str, dict[str, Any]], str, Names]:
    """Solve every modality's map; what it was solved from, in words and by modality, and the map of
    names.

    Raises:
        ConfigError: no vectors of names, one class alone, or clips of several labels.
    """
    texts = _texts(data, known)
    names = _centred(texts)
    facts: dict[str, dict[str, Any]] = {}
    seen: dict[str, _Seen] = {}
    class_ids = torch.from_numpy(data.clips.class_ids).long()
    for modality in embedder.modalities:
        projection = embedder.of(modality).get_submodule("projection")
        assert isinstance(projection, SemanticRidge)
        rows = data.rows[modality]
        there = torch.from_numpy(data.clips.labelled) & (rows.counts > 0).cpu()
        means = rows.means().cpu()
        power = ROOT if is_skewed(means[there]) else 1.0
        projection.solve(means[there], class_ids[there], names.units(texts), power)
        seen[modality] = _Seen(means, there, projection)
        facts[modality] = {
            "power": power, "clips": int(there.sum()),
            "classes": len(torch.unique(class_ids[there])),
        }  # fmt: skip
    told = dict[str, Worth]()
    for i, (mode, modalities) in enumerate(modes.MODES.items()):
        if not set(modalities) <= set(seen):
            continue
        of_mode = {modality: seen[modality] for modality in modalities}
        asked = list(_left_out(texts, data.clips, of_mode, seed))
        if val is not None and known is not None:
            asked += _of_val(names, val, known, of_mode, data.clips.classes)
        if (found := worth_of_names.measure(asked, seed)) is not None:
            names.clips[i], names.classes[i] = found
            told[mode] = names.worth(mode)
    what = "nothing: one solution, of all labelled clips"
    if told:
        listed = ", ".join(f"{worth.clips:.2g} in mode {mode}" for mode, worth in told.items())
        what += f"; a class name is worth as many clips as {listed}"
    return facts, what, names


def _left_out(
    texts: Float[Tensor, "C E"], clips: Clips, seen: Mapping[str, _Seen], seed: int
) -> Iterator[Asked]:
    """Classes of the training, each in turn asked of a solution from the others."""
    there = torch.stack([of.there for of in seen.values()]).all(0)
    present = np.unique(clips.class_ids[there.numpy()])
    if len(present) < FEWEST:
        return
    class_ids = torch.from_numpy(clips.class_ids).long()
    for left_out in _turns(present, seed):
        out = torch.from_numpy(np.isin(clips.class_ids, left_out))
        own = _centred(texts[torch.unique(class_ids[there & ~out])])
        wanted, asked = own.units(texts), out & there
        maps = {m: of.without(out, class_ids, wanted) for m, of in seen.items()}
        yield _asked(
            clips.keep(asked.numpy()), {m: of.means[asked] for m, of in seen.items()}, maps,
            wanted[class_ids[asked]],
        )  # fmt: skip


def _of_val(
    names: Names,
    val: TrainingData,
    known: ClassEmbeddings,
    seen: Mapping[str, _Seen],
    trained: Sequence[str],
) -> Iterator[Asked]:
    """Classes of the val split that training lacks and whose names have vectors, asked of the
    solution itself."""
    clips = val.clips
    new = [name not in trained and known.has(name) for name in clips.classes]
    if clips.targets is not None or sum(new) < 2:
        return
    of_new = clips.labelled & np.array(new)[clips.class_ids]
    asked = torch.from_numpy(of_new)
    for modality in seen:
        asked &= (val.rows[modality].counts > 0).cpu()
    vectors = torch.zeros(len(new), names.centre.shape[0])
    vectors[torch.tensor(new)] = names.units(
        torch.from_numpy(known.of([n for n, ok in zip(clips.classes, new, strict=True) if ok]))
    )
    yield _asked(
        clips.keep(asked.numpy()), {m: val.rows[m].means().cpu()[asked] for m in seen},
        {m: of.solved for m, of in seen.items()},
        vectors[torch.from_numpy(clips.class_ids).long()[asked]],
    )  # fmt: skip


def _asked(
    clips: Clips,
    means: Mapping[str, Float[Tensor, "V _"]],
    maps: Mapping[str, SemanticRidge],
    named: Float[Tensor, "V E"],
) -> Asked:
    """Clips as stored, where the maps put them, and as named."""
    units = [F.normalize(of.mapped(means[m]), dim=-1) for m, of in maps.items()]
    return Asked(clips, tuple(means.values()), torch.stack(units).mean(0), named)


def _turns(classes: Int[np.ndarray, "_"], seed: int) -> Iterator[Int[np.ndarray, "_"]]:
    """Classes that are left out together, each once a round."""
    count = max(2, min(FOLDS, len(classes) // OF_FOLD))
    rng = np.random.default_rng([seed, _STREAM])
    for _ in range(ROUNDS):
        yield from np.array_split(rng.permutation(classes), count)


def _texts(data: TrainingData, known: ClassEmbeddings | None) -> Float[Tensor, "C E"]:
    if data.clips.targets is not None:
        raise ConfigError("semantic_ridge is for clips of one class each, not of several labels")
    if known is None:
        raise ConfigError(
            "semantic_ridge regresses clips on the names of their classes; give the vectors of "
            "these as `labels` (see `learn labels`)"
        )
    if len(data.clips.classes) < 2:
        raise ConfigError(f"semantic_ridge needs two classes, not {len(data.clips.classes)}")
    texts = torch.from_numpy(known.of(data.clips.classes))
    nothing = ~texts.any(1)
    if bool(nothing.any()):
        name = data.clips.classes[int(nothing.int().argmax())]
        raise ConfigError(f"the vector of class name {name!r} is all zeros; make it anew")
    if torch.allclose(F.normalize(texts, dim=-1), F.normalize(texts[:1], dim=-1), atol=1e-6):
        raise ConfigError(
            f"the vectors of {len(texts)} class names all say the same, so none tells a class; "
            "make them anew (see `learn labels`)"
        )
    return texts
