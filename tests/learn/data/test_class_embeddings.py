"""Words that differ only in how they are spelt."""

import numpy as np
import pytest

from learn.data import class_embeddings
from store.errors import InputError

TABLE = "Turkey 1 0\nturkey 2 0\nPolish 3 0\npolish 4 0\nMARCH 5 0\nMarch 6 0\nbig_ben 7 0\n"


def first_numbers(tmp_path, names, **settings):
    path = tmp_path / "vectors.txt"
    path.write_text(TABLE)
    vectors = class_embeddings.read(path, wanted=names).of(names, **settings)
    return vectors[:, 0].tolist()


def test_a_word_is_taken_as_it_is_spelt(tmp_path):
    assert first_numbers(tmp_path, ["Turkey", "turkey", "polish", "Polish"]) == [1, 2, 4, 3]


def test_and_else_by_its_words(tmp_path):
    assert first_numbers(tmp_path, ["TURKEY", "Big Ben", "BigBen"]) == [2, 7, 7]
    with pytest.raises(InputError, match="'march'"):  # which of two, nobody says
        first_numbers(tmp_path, ["march"])


def test_words_of_a_name_are_taken_as_they_are_spelt_too(tmp_path):
    found = first_numbers(tmp_path, ["Polish turkey", "polish Turkey"], average_words=True)
    np.testing.assert_allclose(found, [2.5, 2.5])
    assert first_numbers(tmp_path, ["Turkey march"], average_words=True) == [3.0]


@pytest.mark.parametrize("mark", ",;\t|")
def test_a_table_is_read_as_its_header_is_separated(tmp_path, mark):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(mark.join(row) for row in ("nxy", "a12", "b34")))
    assert class_embeddings.read(path).of(["b", "a"]).tolist() == [[3, 4], [1, 2]]
    path.write_text(f"n{mark}x\na\n")
    with pytest.raises(InputError, match="no numbers for 'a'"):
        class_embeddings.read(path)
