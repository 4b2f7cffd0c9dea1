"""A head for each sense; the mean of their scores, each in units of its spread over the shots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.fusions import PredictFused, View, needs_both
from learn.fewshot.fusions._views import one_each
from learn.fewshot.heads import Context, Head
from store.errors import ConfigError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the fusion `late`."""


class Late:
    """Senses joined after the head."""

    weighs = False

    def views(self, vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
        """The vectors of each sense."""
        return one_each(vectors)

    def lacks(self, known: Mapping[str, object]) -> str | None:
        """Several senses."""
        return needs_both(known)

    def fit(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        weights: Float[Tensor, "E B"] | None = None,
    ) -> PredictFused:
        """A head for each sense; a sense that tells no shots apart has no say.

        Raises:
            ConfigError: classes of an episode have different numbers of shots.
        """
        if any(context.mask is not None for context in contexts):
            raise ConfigError("late fusion needs equally many shots of each class of an episode")
        predicts = [head.fit(x, context) for x, context in zip(shots, contexts, strict=True)]
        spreads = [
            predict(x.flatten(1, 2)).double().std(dim=(1, 2), keepdim=True)
            for predict, x in zip(predicts, shots, strict=True)
        ]

        def scores(
            queries: Sequence[Float[Tensor, "E M _"]], shares: Float[Tensor, "E M B"] | None = None
        ) -> Float[Tensor, "E M N"]:
            total: Tensor | None = None
            for b, (predict, spread, x) in enumerate(zip(predicts, spreads, queries, strict=True)):
                # However small a view's numbers are, only those it tells apart count.
                part = torch.where(spread > 0, predict(x) / spread, 0)
                part = part if shares is None else shares[..., b, None] * part
                total = part if total is None else total + part
            assert total is not None
            return total

        return scores


def build(config: Config) -> Late:
    """The fusion that these settings describe."""
    return Late()
