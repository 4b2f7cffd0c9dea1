"""Every encoder of text keeps the promises of `TextEncoder`."""

import numpy as np
import pytest

from extract.texts import FAMILY, TextEncoder
from store import plugins
from store.spec import FeatureSpec, canonical_json

TEXTS = [
    "a dog barks at the postman", "rain on a tin roof", "ein Hund bellt", "कुत्ता भौंकता है",
    "狗在叫", "💥 wow!!", "x", "so\n\nmany\tlines",
]  # fmt: skip


@pytest.fixture(scope="module", params=plugins.names(FAMILY))
def encoder(request):
    return plugins.build(FAMILY, request.param)


def test_an_encoder_says_what_it_is(encoder):
    assert isinstance(encoder, TextEncoder)
    assert canonical_json(encoder.identity)
    FeatureSpec(slug=encoder.slug, modality="text", dim=encoder.dim, identity=encoder.identity)


def test_a_text_is_rows_of_length_one_and_one_that_says_nothing_none(encoder):
    for text in TEXTS:
        rows = encoder(encoder.pieces(text))
        assert rows.shape == (1, encoder.dim)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert encoder.pieces("") == encoder.pieces("  \n ") == []


def test_a_row_depends_on_its_own_text_alone(encoder):
    pieces = [piece for text in TEXTS for piece in encoder.pieces(text)]
    together = encoder(pieces)
    alone = np.concatenate([encoder([piece]) for piece in pieces])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(encoder(pieces[::-1])[::-1], together, atol=2e-6)


def test_another_build_gives_the_same(encoder):
    again = plugins.build(FAMILY, encoder.name)
    assert again.identity == encoder.identity
    np.testing.assert_array_equal(again(TEXTS[:2]), encoder(TEXTS[:2]))


def test_texts_of_like_words_are_more_alike(encoder):
    dog, other, rain = encoder(["a dog barks", "the dog barked twice", "rain on a tin roof"])
    assert dog @ other > dog @ rain + 0.1
