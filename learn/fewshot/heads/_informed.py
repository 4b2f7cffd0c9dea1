"""Class weights moved by how informative their answers for the queries are.

Starting at the class means, Adam lessens `weight` times the cross-entropy of the shots plus a cost
of the queries' probabilities, whose gradient by their logits the head brings along. A class's logit
is minus half its squared distance times the temperature.

Gradients are written out: one product of weights and clips forward and one back a step. They are
worked through a few episodes at a time on a CPU, whose cache would not hold them all.

Shapes: as in the package; T = S + M points.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Predict
from learn.fewshot.heads._descent import adam, descend
from learn.fewshot.heads._points import at_once

# From probabilities of queries, their logarithms and the number of shots to the gradient.
OfQueries = Callable[[Float[Tensor, "E N M"], Float[Tensor, "E N M"], int], Float[Tensor, "E N M"]]


@dataclass(kw_only=True, eq=False)
class Informed:
    """Class weights that learn from shots and queries."""

    name: str  # of the head
    temperature: float
    weight: float  # of the shots' cross-entropy
    steps: int
    lr: float
    of_queries: OfQueries
    transductive: bool = True
    centred_by: str = "none"
    scale_free: bool = False  # but for vectors brought to one length

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Keep the support: the weights learn from the queries too."""

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            size = at_once(support, query)
            parts = []
            for first in range(0, len(query), size):
                part = slice(first, first + size)
                parts.append(self._adapt(support[part], query[part]))
            return torch.cat(parts)

        return predict

    @torch.no_grad()
    def _adapt(
        self, support: Float[Tensor, "E N K D"], query: Float[Tensor, "E M D"]
    ) -> Float[Tensor, "E M N"]:
        """Log probabilities after the last step."""
        points = torch.cat([support.flatten(1, 2), query], 1)
        ways, shots = support.shape[1:3]
        target = torch.eye(ways, dtype=points.dtype, device=points.device)
        target = target.repeat_interleave(shots, dim=1)
        weights = descend(
            support.mean(2),
            lambda weights: self._gradient(weights, points, target),
            adam(self.lr),
            self.steps,
        )
        return self._logits(weights, query).log_softmax(1).mT

    def _logits(
        self, weights: Float[Tensor, "E N D"], points: Float[Tensor, "E T D"]
    ) -> Float[Tensor, "E N T"]:
        """Logits up to what is the same for all classes of a point."""
        half = torch.linalg.vecdot(weights, weights)[..., None] / 2
        return (weights @ points.mT).sub_(half).mul_(self.temperature)

    def _gradient(
        self,
        weights: Float[Tensor, "E N D"],
        points: Float[Tensor, "E T D"],
        target: Float[Tensor, "N S"],
    ) -> Float[Tensor, "E N D"]:
        clips, ways = target.shape[1], len(target)
        log_p = self._logits(weights, points).log_softmax(1)
        p = log_p.exp()
        g = torch.empty_like(p)
        torch.sub(p[..., :clips], target, out=g[..., :clips]).mul_(
            self.temperature * self.weight / clips
        )
        by_logit = self.of_queries(p[..., clips:], log_p[..., clips:], clips // ways)
        g[..., clips:] = self.temperature * by_logit
        return (g @ points).sub_(g.sum(-1, keepdim=True) * weights)
