import numpy as np
import pytest

from learn.data import class_embeddings, labels
from learn.data.class_embeddings import ClassEmbeddings
from store.errors import ConfigError, InputError, MissingFile

VECTORS = np.arange(8, dtype=np.float32).reshape(4, 2) / 3
NAMES = ("ApplyEyeMakeup", "playing cello", "dog", "cat")


@pytest.fixture
def table():
    return ClassEmbeddings(names=NAMES, vectors=VECTORS)


def test_names_are_found_by_their_words_and_never_by_place(table):
    asked = ["dog", "apply_eye_makeup", "PlayingCello", "Apply Eye Makeup"]
    np.testing.assert_array_equal(table.of(asked), VECTORS[[2, 0, 1, 0]])
    assert class_embeddings.words("HTMLPage2Go_für") == "html page 2 go für"


def test_names_that_are_not_there_are_listed_with_what_was_meant(table):
    with pytest.raises(InputError, match=r"2 of the names.*'playing_celo' \(did you mean 'playing"):
        table.of(["dog", "playing_celo", "zebra"])


def test_a_name_with_two_candidates_is_not_guessed():
    ambiguous = ClassEmbeddings(names=("a_b", "A B"), vectors=np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(ambiguous.of(["a_b"]), [[1, 0]])
    with pytest.raises(InputError):
        ambiguous.of(["a-b"])


def test_words_are_averaged_only_if_asked(table):
    with pytest.raises(InputError):
        table.of(["dog cat"])
    np.testing.assert_allclose(table.of(["DogCat"], average_words=True), [VECTORS[2:].mean(0)])
    with pytest.raises(InputError):
        table.of(["dog zebra"], average_words=True)


def test_written_and_read_again_is_the_same(table, tmp_path):
    odd = ClassEmbeddings(
        names=('a, "b"', "naïve\tx"),
        vectors=np.array([[1e-30, 3.4e38], [np.pi, -0.1]], np.float32),
    )
    for embeddings in (table, odd):
        class_embeddings.write(tmp_path / "l.csv", embeddings)
        again = class_embeddings.read(tmp_path / "l.csv")
        assert again.names == embeddings.names
        np.testing.assert_array_equal(again.vectors, embeddings.vectors)


def test_dictionaries_of_the_gzsl_papers(table, tmp_path):
    embeddings = np.array(dict(zip(NAMES, VECTORS, strict=True)), dtype=object)
    np.save(tmp_path / "w.npy", embeddings, allow_pickle=True)
    with pytest.raises(InputError, match="`trust_pickle`"):
        class_embeddings.read(tmp_path / "w.npy")
    again = class_embeddings.read(tmp_path / "w.npy", trust_pickle=True)
    np.testing.assert_array_equal(again.of(NAMES), VECTORS)


def test_word_vectors_are_read_for_the_words_that_are_wanted(tmp_path):
    lines = ["4 2", "dog 1 2", "eye 3 4", "Playing 0 1", "zebra 9 9", "playing_cello 5 6"]
    (tmp_path / "w.vec").write_text("\n".join(lines) + "\n")
    embeddings = class_embeddings.read(tmp_path / "w.vec", wanted=["Dog", "PlayingCello"])
    assert set(embeddings.names) == {"dog", "Playing", "playing_cello"}
    np.testing.assert_array_equal(embeddings.of(["PlayingCello", "Dog"]), [[5, 6], [1, 2]])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name,0\na,1\na,2\n", "'a' twice"),
        ("name,0\na,1\nb,1,2\n", "1 to 2 numbers"),
        ("name,0\na,x\n", "no numbers"),
        ("name,0\na,nan\n", "that are none"),
        ("name,0\n", "no names"),
        ("", "no names"),
    ],
)
def test_tables_that_are_none(tmp_path, text, match):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        class_embeddings.read(tmp_path / "l.csv")


def test_other_files(tmp_path):
    with pytest.raises(MissingFile, match="learn labels"):
        class_embeddings.read(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(bytes(range(256)))
    (tmp_path / "b.npy").write_bytes(b"no")
    for name in ("b.csv", "b.npy"):
        with pytest.raises(InputError):
            class_embeddings.read(tmp_path / name, trust_pickle=True)
    (tmp_path / "r.csv").write_text("original,manual,category\nApplyEyeMakeup,eye makeup,x\n")
    assert labels.renaming(tmp_path / "r.csv") == {"ApplyEyeMakeup": "eye makeup"}
    (tmp_path / "r.csv").write_text("original,manual\na,x\na,x\na,y\n")
    with pytest.raises(InputError, match="two names for 'a': 'x', 'y'"):
        labels.renaming(tmp_path / "r.csv")
    (tmp_path / "r.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="original and manual"):
        labels.renaming(tmp_path / "r.csv")


def test_a_sentence_encoder_knows_what_names_mean():
    pytest.importorskip("sentence_transformers")
    names = ("PlayingCello", "playing_violin", "chainsaw")
    embeddings = labels.encoded(names)
    near, far = (
        embeddings.vectors[0] @ embeddings.vectors[1],
        embeddings.vectors[0] @ embeddings.vectors[2],
    )
    assert embeddings.vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)
    assert near > far + 0.2
    with pytest.raises(ConfigError, match="no sentence encoder"):
        labels.encoded(names, "no/such-model")
