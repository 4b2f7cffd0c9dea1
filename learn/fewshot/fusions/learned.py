"""The one vector that a network makes of all senses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from learn.fewshot.fusions import PredictFused, View
from learn.fewshot.fusions._views import of_one_view
from learn.fewshot.heads import Context, Head
from store.settings import Settings

JOINT = "av"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the fusion `learned`."""


class Learned:
    """Senses joined by a network."""

    weighs = False

    def views(self, vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
        """The network's vector."""
        return (View(vectors=vectors[JOINT], modality_dims=(vectors[JOINT].shape[1],)),)

    def lacks(self, known: Mapping[str, object]) -> str | None:
        """A network's vector of both."""
        return None if JOINT in known else "the vector that a network makes of both"

    def fit(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        weights: Float[Tensor, "E B"] | None = None,
    ) -> PredictFused:
        """The head on the network's vectors."""
        return of_one_view(head, shots, contexts)


def build(config: Config) -> Learned:
    """The fusion that these settings describe."""
    return Learned()
