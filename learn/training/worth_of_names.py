"""What the name of a class is worth in clips, told by classes that a solution did not see.

Their clips are asked about with one shot each and several shares of names; a share stands by the
accuracy that it gives, less a part of the gain's own standard error over classes, and is drawn
towards nothing the fewer these are. The likelihood that weighs senses can't tell: distances to
names are flat, and make a single shot less sure of itself whatever the names say.

Shapes: V = clips, E = size of a name's vector, W = shares, C = classes.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from learn.data.clips import Clips
from learn.fewshot.fusions.weighted import fit_joined
from learn.fewshot.heads import Head
from learn.fewshot.heads._transform import known_of
from learn.training import unseen
from store import plugins

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)  # of names at one shot; more was never better
FEWEST = 8  # classes
AS_NONE = 4  # classes that would have gained nothing, taken to be there besides
DOUBT = 0.1  # of the standard error of a gain, that a share has to be better by
AT_ONCE = 50  # episodes


class Asked(NamedTuple):
    """Clips of classes that a solution did not see, as stored, as solved and as named."""

    clips: Clips
    stored: tuple[Float[Tensor, "V _"], ...]  # by modality
    projected: Float[Tensor, "V E"]
    named: Float[Tensor, "V E"]


def measure(asked: Iterable[Asked], seed: int) -> tuple[float, int] | None:
    """How many clips a name is worth, and the number of classes that told it; None if they are too
    few."""
    right: defaultdict[str, Float64[np.ndarray, "W"]] = defaultdict(lambda: np.zeros(len(SHARES)))
    total: defaultdict[str, int] = defaultdict(int)
    for some in asked:
        for name, (of_class, count) in _answers(some, seed).items():
            right[name] += of_class
            total[name] += count
    if len(total) < FEWEST:
        return None
    accuracy = np.array([right[name] / count for name, count in total.items()])
    gains = accuracy - accuracy[:, :1]
    error = gains.std(axis=0, ddof=1) / len(gains) ** 0.5
    share = SHARES[int((gains.mean(0) - DOUBT * error).argmax())]
    share *= len(total) / (len(total) + AS_NONE)
    return share / (1 - share), len(total)


@torch.inference_mode()
def _answers(asked: Asked, seed: int) -> dict[str, tuple[Float64[np.ndarray, "W"], int]]:
    """Of each class, how many queries were answered right under each share, and of how many."""
    episodes = next((drawn for drawn in unseen.draw(asked.clips, seed) if drawn.shots == 1), None)
    if episodes is None:
        return {}
    head: Head = plugins.build("learn.fewshot.heads", unseen.HEAD)
    shots_of, queries_of = (*asked.stored, asked.named), (*asked.stored, asked.projected)
    contexts = [known_of(x, (x.shape[1],)) for x in shots_of]
    senses = len(asked.stored)
    of_queries = episodes.classes[:, episodes.targets].ravel()
    right = np.zeros((len(SHARES), len(of_queries)), bool)
    for w, share in enumerate(SHARES):
        weights = torch.tensor([*[(1 - share) / senses] * senses, share])
        found = []
        for first in range(0, len(episodes), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            support, query = (
                torch.from_numpy(np.ascontiguousarray(of[part])).long()
                for of in (episodes.support, episodes.query)
            )
            predict = fit_joined(
                head, [x[support] for x in shots_of], contexts, weights.expand(len(support), -1)
            )
            found.append(predict([x[query] for x in queries_of], None).argmax(-1).numpy())
        right[w] = (np.concatenate(found) == np.asarray(episodes.targets)).ravel()
    return {
        asked.clips.classes[c]: (
            right[:, of_queries == c].sum(1).astype(np.float64), int((of_queries == c).sum())
        )
        for c in np.unique(of_queries).tolist()
    }  # fmt: skip
