"""The score that tells the best epoch: validation loss, or few-shot accuracy on validation clips.

The loss needs classes that the objective knows. Accuracy of episodes does not: prototypes of
validation clips answer for validation clips, in every single modality and across them; or the
objective's own head does, where it has one.

Shapes: V = clips.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.data.clips import UNLABELLED, Clips
from learn.fewshot import modes as views
from learn.fewshot.heads import Head
from learn.fewshot.heads._transform import known_of
from learn.fewshot.kept import queries_of
from learn.fewshot.scoring import accuracies, scorer
from learn.fewshot.tasks import Episodes
from store import plugins
from store.errors import NotEnoughClips

EPISODES = 200
WAYS, QUERIES = 5, 5


def draw(clips: Clips, seed: int) -> Episodes | None:
    """The episodes to validate on, with as many ways and queries as the clips allow; None if too
    few."""
    _, sizes = np.unique(clips.class_ids[clips.class_ids != UNLABELLED], return_counts=True)
    for queries in range(QUERIES, 0, -1):
        ways = min(WAYS, int((sizes > queries).sum()))
        if ways < 2:
            continue
        settings = {"ways": ways, "shots": 1, "queries": queries, "episodes": EPISODES}
        try:
            spec = plugins.Spec("n_way_k_shot", settings)
            drawn: Episodes = plugins.build("learn.fewshot.tasks", spec)(clips, seed=seed)
        except NotEnoughClips:
            continue
        return drawn
    return None


def accuracy(
    vectors: Mapping[str, Float[Tensor, "V _"]], clips: Clips, *, seed: int, head: Head | None
) -> float:
    """Mean accuracy over all pairs of a support's and a query's modality."""
    episodes = draw(clips, seed)
    assert episodes is not None, "whoever watches episodes has asked whether there are any"
    unit = {name: F.normalize(x, dim=-1).cpu() for name, x in vectors.items()}
    head = head or plugins.build("learn.fewshot.heads", "prototypes")
    means = []
    single = views.modes_of(unit)
    for support in single:
        for query in single:
            pair = views.pair(unit, support, query, common=True)
            context = known_of(pair.support, pair.modality_dims)
            score = scorer(head, pair, context, queries=queries_of([episodes]))
            means.append(float(accuracies(episodes, score(episodes)).mean()))
    return sum(means) / len(means)


def score(epoch: Mapping[str, Any]) -> float:
    """The score of a validated epoch: higher is better."""
    if epoch["val_accuracy"] is not None:
        return float(epoch["val_accuracy"])
    return -float(epoch["val_loss"])
