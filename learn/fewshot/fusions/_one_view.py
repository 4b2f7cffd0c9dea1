"""A head on the one view of a fusion that joins senses before it. Shapes: as in the package."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from learn.fewshot.fusions import PredictFused
from learn.fewshot.heads import Context, Head


def of_one_view(
    head: Head, shots: Sequence[Float[Tensor, "E N K _"]], contexts: Sequence[Context]
) -> PredictFused:
    """The head's own scores."""
    (only,), (context,) = shots, contexts
    predict = head.fit(only, context)

    def scores(
        queries: Sequence[Float[Tensor, "E M _"]], shares: Float[Tensor, "E M B"] | None = None
    ) -> Float[Tensor, "E M N"]:
        assert shares is None, "what is joined cannot lack a part"
        return predict(queries[0])

    return scores
