"""Objectives that cluster the clips of both modalities, and how they do it.

Shapes: B = clips of a batch, V = clips, E = size, G = clusters.
"""

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from learn.training.objectives import Batch, EpochStart, Objective, ObjectiveContext
from store.errors import ConfigError

ITERATIONS = 25


class Clustered(Objective):
    """Keeps each clip's cluster, and each cluster's mean direction among the embeddings as they
    were when it was made. Until then clips are dealt out in turn, and directions are random."""

    def __init__(self, scene: ObjectiveContext, clusters: int) -> None:
        super().__init__()
        self.count = min(clusters, scene.clips)
        self.names = tuple(scene.outputs)
        generator = torch.Generator().manual_seed(0)
        for name, dim in scene.outputs.items():
            centres = F.normalize(torch.randn(self.count, dim, generator=generator), dim=-1)
            self.register_buffer(f"codes_{name}", torch.arange(scene.clips) % self.count)
            self.register_buffer(f"centres_{name}", centres)

    def centres(self, name: str) -> Float[Tensor, "G E"]:
        return self.get_buffer(f"centres_{name}")

    def class_ids(self, batch: Batch, name: str) -> Int[Tensor, "B"]:
        """Clusters of the batch's clips in one modality; of another split's, the nearest."""
        unit = F.normalize(batch.embeddings[name].detach(), dim=-1)
        nearest = (unit @ self.centres(name).T).argmax(1)
        known = self.get_buffer(f"codes_{name}")[batch.clips.clamp_min(0)]
        return torch.where(batch.clips >= 0, known, nearest)

    def recluster(self, moment: EpochStart, *, stored: bool) -> dict[str, float]:
        """Cluster what is `stored`, or the embeddings as they stand, and say what came of it."""
        survey = moment.survey()
        for number, name in enumerate(self.names):
            rows = survey.means[name] if stored else survey.embeddings[name]
            class_ids = cluster(rows, self.count, seed=moment.seed + number)
            self.get_buffer(f"codes_{name}").copy_(class_ids)
            centres = centroids(survey.embeddings[name], class_ids, self.centres(name))
            self.get_buffer(f"centres_{name}").copy_(centres)
        one, two = (self.get_buffer(f"codes_{name}") for name in self.names)
        return told(one, two, self.count)


def two_modalities(objective: str, scene: ObjectiveContext) -> None:
    """Raises:
    ConfigError: these are not both modalities, each with a vector of its own.
    """
    if set(scene.outputs) != {"visual", "audio"}:
        raise ConfigError(f"{objective} needs visual and audio, not {', '.join(scene.outputs)}")


def cluster(rows: Float[Tensor, "V E"], count: int, *, seed: int) -> Int[Tensor, "V"]:
    """k-means of the rows' directions: each clip's cluster.

    FAISS splits a large cluster where one is left empty; a last one may stay empty all the same.
    """
    unit = np.ascontiguousarray(F.normalize(rows, dim=-1).cpu().numpy(), dtype=np.float32)
    kmeans = faiss.Kmeans(
        unit.shape[1], count, niter=ITERATIONS, seed=seed % (1 << 31), spherical=True,
        min_points_per_centroid=1, max_points_per_centroid=len(unit),
    )  # fmt: skip
    kmeans.train(unit)
    _, nearest = kmeans.index.search(unit, 1)
    return torch.from_numpy(nearest[:, 0].astype(np.int64)).to(rows.device)


def centroids(
    rows: Float[Tensor, "V E"], class_ids: Int[Tensor, "V"], otherwise: Float[Tensor, "G E"]
) -> Float[Tensor, "G E"]:
    """The mean direction of each cluster; that of `otherwise` for one without members."""
    sums = torch.zeros_like(otherwise).index_add(0, class_ids, F.normalize(rows, dim=-1))
    empty = torch.bincount(class_ids, minlength=len(otherwise)) == 0
    return F.normalize(torch.where(empty[:, None], otherwise, sums), dim=-1)


def told(visual: Int[Tensor, "V"], audio: Int[Tensor, "V"], count: int) -> dict[str, float]:
    """How even the clusters are (1: all of one size), and how much both clusterings share."""
    even = {}
    for name, class_ids in (("visual", visual), ("audio", audio)):
        share = torch.bincount(class_ids, minlength=count).double() / len(class_ids)
        entropy = -(share * share.clamp_min(1e-12).log()).sum()
        even[f"evenness_{name}"] = float(entropy / max(np.log(count), 1e-12))
    shared = normalized_mutual_info_score(visual.cpu().numpy(), audio.cpu().numpy())
    return {**even, "nmi_visual_audio": float(shared)}
