"""One vector of all senses: each scaled to length 1, joined end to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from learn.fewshot.fusions import PredictFused, View, needs_both, senses_of
from learn.fewshot.fusions._views import of_one_view
from learn.fewshot.heads import Context, Head
from learn.fewshot.modes import joined
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the fusion `early`."""


class Early:
    """Senses joined before the head."""

    weighs = False

    def views(self, vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
        """The joined vector."""
        parts = [vectors[name] for name in senses_of(vectors)]
        return (View(vectors=joined(parts), modality_dims=tuple(p.shape[1] for p in parts)),)

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
        """The head on joined vectors."""
        return of_one_view(head, shots, contexts)


def build(config: Config) -> Early:
    """The fusion that these settings describe."""
    return Early()
