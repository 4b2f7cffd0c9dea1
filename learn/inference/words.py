"""A text of the asker's own in the place of a clip: what is near it, among clips' text or, in a
trained space, among what is heard or seen.

The encoder of the text that clips have makes its rows; who calls brings it along, as this package
has none (`extract/pipeline/text.py`).

Shapes: R = rows of the text, D = size of a row or vector.
"""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from learn.data.features import TEXT
from learn.data.rows import Rows
from learn.fewshot import modes
from learn.inference.selection import Selection, vectors_of
from store.errors import ConfigError, InputError

if TYPE_CHECKING:
    from store import Feature


@runtime_checkable
class EncodeText(Protocol):
    """The rows that a feature's own encoder makes of another text; none of one that says nothing.

    `extract.pipeline.text.rows_of` is one.
    """

    def __call__(self, feature: "Feature", text: str) -> Float32[np.ndarray, "R D"]: ...


def vector_of(words: str, selection: Selection, encode: EncodeText | None) -> Float[Tensor, "D"]:
    """The vector of a text where clips are compared: as it is, or in the run's common space.

    Raises:
        ConfigError: nothing to encode it with.
        InputError: several features of text, a text that says nothing, or a run without a way from
            text alone.
    """
    if encode is None:
        raise ConfigError("a text needs `encode`, such as extract.pipeline.text.rows_of")
    senses = [sense for sense in selection.features if modes.modality_of(sense) == TEXT]
    if len(senses) != 1:
        raise InputError(f"a text is compared by one feature of text, not {len(senses)}; name it")
    values = encode(selection.features[senses[0]], words)
    if not len(values):
        raise InputError(f"{words!r} has no word in it")
    rows = Rows(
        values=torch.from_numpy(values.astype(np.float16)),
        offsets=torch.tensor([0, len(values)]),
        seconds=torch.zeros(len(values)),
    )
    (run,) = selection.runs.values()
    vectors = vectors_of({senses[0]: rows}, run)
    if senses[0] not in vectors:
        raise InputError(f"{run.path if run else ''} makes no vector of text alone")
    return vectors[senses[0]][0]
