"""What `learn episodes --drop` is asked; see `learn/evaluation/missing_modality.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from learn.fewshot.mode_pairs import SINGLE
from store.errors import ConfigError, choices

FUSIONS = ("early", "late", "learned", "weighted")
UNASKED = FUSIONS[:3]  # that are shown where none is named
FILLS = ("zero", "mean", "retrieved", "token", "ignored")
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
OF_MODE = SINGLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The modalities that go missing, the shares of clips that lack them, and what is filled in.

    Raises:
        ConfigError: a word that is none of those above, or a rate that is no share.
    """

    modes: Sequence[str] = ()
    rates: Sequence[float] = RATES
    fills: Sequence[str] = ()  # none: all that a fusion allows
    fusions: Sequence[str] = ()  # none: early, late and learned, as a projection allows
    seed: int = 0

    def __post_init__(self) -> None:
        for words, known in (
            (self.modes, tuple(OF_MODE)),
            (self.fills, FILLS),
            (self.fusions, FUSIONS),
        ):
            for word in words:
                if word not in known:
                    raise ConfigError(f"`drop`: no {word!r}; there are {choices(word, known)}")
        if not self.rates or not all(0 <= rate <= 1 for rate in self.rates):
            raise ConfigError(f"`drop` rates {list(self.rates)}: name shares from 0 to 1")
