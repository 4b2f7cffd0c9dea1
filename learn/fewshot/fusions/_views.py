"""Views that several fusions share. Shapes: as in the package."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from learn.fewshot.fusions import PredictFused, View, senses_of
from learn.fewshot.heads import Context, Head


def one_each(vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
    """A view for each single sense."""
    parts = (vectors[name] for name in senses_of(vectors))
    return tuple(View(vectors=x, modality_dims=(x.shape[1],)) for x in parts)


def of_one_view(
    head: Head, shots: Sequence[Float[Tensor, "E N K _"]], contexts: Sequence[Context]
) -> PredictFused:
    """The head's own scores, where senses are joined before it."""
    (only,), (context,) = shots, contexts
    predict = head.fit(only, context)

    def scores(
        queries: Sequence[Float[Tensor, "E M _"]], shares: Float[Tensor, "E M B"] | None = None
    ) -> Float[Tensor, "E M N"]:
        assert shares is None, "what is joined cannot lack a part"
        return predict(queries[0])

    return scores
