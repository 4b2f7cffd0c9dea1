"""A map of the clips in two dimensions: near on it is near in the space of their vectors, mostly.

Shapes: V = clips, D = size of a vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.data.rows import MODALITIES, load_rows
from learn.fewshot.modes import MODES, SINGLE, pair
from learn.inference.selection import vectors_of
from learn.training.runs import Run
from store import open as open_store

MOST_CLIPS = 1500  # on one map; of more, as many spread evenly over their ids
BEFORE_TSNE = 50  # dimensions
NEIGHBOURS = 30.0
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Map:
    """Clips seen in one mode, or in two modes of one common space."""

    modes: tuple[str, ...]
    clips: tuple[str, ...]
    classes: tuple[str, ...]
    kinds: tuple[str, ...]  # the mode of each point
    points: Float[np.ndarray, "V 2"]
    kept: float | None  # share of the variance on a map by pca


def maps(
    store_path: str,
    features: Mapping[str, str],
    clips: Sequence[str],
    classes: Sequence[str],
    run: Run | None,
    method: str,
) -> list[Map]:
    """A map for each mode of stored vectors; for a run, one of all that its common space holds.

    Raises:
        MicroshotError: the store, or a feature in it, is not what it was.
    """
    store = open_store(store_path)
    chosen = np.unique(np.linspace(0, len(clips) - 1, MOST_CLIPS).round().astype(int))
    ids, names = [clips[i] for i in chosen], [classes[i] for i in chosen]
    of_run = run.features if run else features
    rows = {
        m: load_rows(store[features[m]], ids) for m in MODALITIES if m in {*features} & {*of_run}
    }
    vectors = vectors_of(rows, run)
    modes = [mode for mode in MODES if set(MODES[mode]) <= set(rows)]
    if run is None:
        return [_map([mode], vectors, ids, names, method) for mode in modes]
    single = [mode for mode in modes if mode in SINGLE] if "av" not in vectors else ["av"]
    return [_map(single, vectors, ids, names, method)]


def _map(
    modes: Sequence[str],
    vectors: Mapping[str, Float[Tensor, "V _"]],
    ids: Sequence[str],
    names: Sequence[str],
    method: str,
) -> Map:
    by_mode = [pair(vectors, mode, mode, common=len(modes) > 1).support for mode in modes]
    x = np.concatenate([F.normalize(x, dim=-1).double().numpy() for x in by_mode])
    points, kept = flat(x, method)
    return Map(
        modes=tuple(modes),
        clips=tuple(ids) * len(modes),
        classes=tuple(names) * len(modes),
        kinds=tuple(mode for mode in modes for _ in ids),
        points=points,
        kept=kept,
    )


def flat(
    x: Float[np.ndarray, "V D"], method: str, seed: int = SEED
) -> tuple[Float[np.ndarray, "V 2"], float | None]:
    """Two coordinates for each vector, and the share of the variance that they keep, by pca.

    Source: van der Maaten and Hinton, 2008 (t-SNE); started from PCA, as Kobak and Berens, 2019.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(x) < 3:
        return np.zeros((len(x), 2)), None
    kept_dims = min(BEFORE_TSNE if method == "tsne" else 2, *x.shape)
    solver = "full" if min(x.shape) < 500 else "randomized"
    pca = PCA(kept_dims, svd_solver=solver, random_state=seed)
    x = pca.fit_transform(x)
    if method == "pca":
        kept = float(pca.explained_variance_ratio_[:2].sum())
        return np.pad(x, ((0, 0), (0, 2 - x.shape[1]))), kept
    near = min(NEIGHBOURS, (len(x) - 1) / 3)
    start = x[:, :2] / max(1e-12, x[:, 0].std()) * 1e-4
    placed = TSNE(perplexity=near, init=start, random_state=seed, n_jobs=1).fit_transform(x)
    return np.asarray(placed, np.float64), None
