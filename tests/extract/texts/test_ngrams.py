"""Hashed pieces of words."""

from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest

from extract.texts.ngrams import Config, build, folded, parts
from store.errors import ConfigError


def reference(text, dim, shortest, longest):
    """The row by its definition, one piece at a time."""
    counts = Counter()
    for word in text.split():
        marked = f"<{word}>"
        counts[f"={word}"] += 1
        for size in range(shortest, longest + 1):
            for i in range(len(marked) - size + 1):
                counts[marked[i : i + size]] += 1
    row = np.zeros(dim)
    for part, count in counts.items():
        number = int.from_bytes(blake2b(part.encode(), digest_size=8).digest())
        row[number % dim] += (1 if number >> 63 else -1) * count**0.5
    return row / np.linalg.norm(row)


@pytest.mark.parametrize(("shortest", "longest"), [(2, 4), (1, 1), (3, 3)])
def test_a_row_is_the_signed_roots_of_hashed_counts(shortest, longest):
    encoder = build(Config(dim=64, shortest=shortest, longest=longest))
    text = "aa bb aa abab"
    (row,) = encoder([text])
    np.testing.assert_allclose(row, reference(text, 64, shortest, longest), atol=1e-6)


def test_pieces_of_a_word_are_it_and_its_runs_with_ends_marked():
    assert parts("ab", 2, 3) == ("=ab", "<a", "ab", "b>", "<ab", "ab>")


@pytest.mark.parametrize(
    ("one", "same"),
    [("STRASSE", "Straße"), ("ﬁlm", "film"), ("\uff37\uff4f\uff57", "wow"), ("a-b", "a - b")],
)
def test_spellings_that_mean_the_same_are_one(one, same):
    encoder = build(Config())
    if "-" not in one:
        assert folded(one) == folded(same)
        np.testing.assert_array_equal(*encoder([one, same]))
    else:  # a hyphen joins, blanks part
        assert encoder([one])[0] @ encoder([same])[0] < 0.99


def test_misspelt_words_stay_near_and_meanings_do_not():
    beautiful, typo, pretty = build(Config())(["beautiful", "beautifull", "pretty"])
    assert beautiful @ typo > 0.5
    assert abs(beautiful @ pretty) < 0.15


def test_words_of_signs_alone_are_no_text():
    assert build(Config()).pieces("?! … --") == []


def test_runs_that_end_before_they_begin_are_refused():
    with pytest.raises(ConfigError, match="shortest=5"):
        Config(shortest=5, longest=2)
