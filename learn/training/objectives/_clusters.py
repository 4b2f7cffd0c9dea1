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
    """An objective that keeps each clip's cluster, and each cluster's mean direction.

    Directions are those of the embeddings when the clusters were made. Until then clips are dealt
    out in turn, and directions are random.
    """

    def __init__(self, context: ObjectiveContext, clusters: int) -> None:
        super().__init__()
        self.count = min(clusters, context.clips)
        self.names = tuple(context.outputs)
        generator = torch.Generator().manual_seed(0)
        for name, dim in context.outputs.items():
            centres = F.normalize(torch.randn(self.count, dim, generator=generator), dim=-1)
            self.register_buffer(f"codes_{name}", torch.arange(context.clips) % self.count)
            self.register_buffer(f"centres_{name}", centres)

    def centres(self, name: str) -> Float[Tensor, "G E"]:
        """The directions of the clusters of one output."""
        return self.get_buffer(f"centres_{name}")

    def class_ids(self, batch: Batch, name: str) -> Int[Tensor, "B"]:
        """Clusters of the batch's clips in one modality; the nearest for clips of another split."""
        unit = F.normalize(batch.embeddings[name].detach(), dim=-1)
        nearest = (unit @ self.centres(name).T).argmax(1)
        known = self.get_buffer(f"codes_{name}")[batch.clips.clamp_min(0)]
        return torch.where(batch.clips >= 0, known, nearest)

    def recluster(self, start: EpochStart, *, stored: bool) -> dict[str, float]:
        """Cluster the `stored` rows' means, or the embeddings; returns the cluster metrics."""
        survey = start.survey()
        for number, name in enumerate(self.names):
            rows = survey.means[name] if stored else survey.embeddings[name]
            class_ids = cluster(rows, self.count, seed=start.seed + number)
            self.get_buffer(f"codes_{name}").copy_(class_ids)
            centres = centroids(survey.embeddings[name], class_ids, self.centres(name))
            self.get_buffer(f"centres_{name}").copy_(centres)
        visual, audio = (self.get_buffer(f"codes_{name}") for name in self.names)
        return cluster_metrics(visual, audio, self.count)


def two_modalities(objective: str, context: ObjectiveContext) -> None:
    """Refuse outputs that are not visual and audio.

    Raises:
        ConfigError: these are not both modalities, each with a vector of its own.
    """
    if set(context.outputs) != {"visual", "audio"}:
        raise ConfigError(f"{objective} needs visual and audio, not {', '.join(context.outputs)}")


def cluster(rows: Float[Tensor, "V E"], count: int, *, seed: int) -> Int[Tensor, "V"]:
    """The cluster of each clip, by k-means on the rows' directions.

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


def cluster_metrics(
    visual: Int[Tensor, "V"], audio: Int[Tensor, "V"], count: int
) -> dict[str, float]:
    """Evenness of the cluster sizes (1: all equal), and mutual information of both clusterings."""
    even = {}
    for name, class_ids in (("visual", visual), ("audio", audio)):
        share = torch.bincount(class_ids, minlength=count).double() / len(class_ids)
        entropy = -(share * share.clamp_min(1e-12).log()).sum()
        even[f"evenness_{name}"] = float(entropy / max(np.log(count), 1e-12))
    shared = normalized_mutual_info_score(visual.cpu().numpy(), audio.cpu().numpy())
    return {**even, "nmi_visual_audio": float(shared)}
