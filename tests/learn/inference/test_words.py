"""Clips found by a text of the asker's own: among their text, and among what is heard."""

import json
from functools import partial

import numpy as np
import pytest

import cli
import learn
from extract.pipeline.text import rows_of
from extract.pipeline.text import text as extract_text
from store import testing
from store.errors import ConfigError, InputError

SAID = {
    "bell": ("the bell of a church rings", "a church bell", "bells ringing", "a bell was rung"),
    "dog": ("a dog barks at us", "two dogs barking", "the barking of a dog", "my dog barked"),
    "rain": ("rain falls on the roof", "it rains", "rainy day, rain and rain", "raining again"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A store whose clips' text tells their class, a run that has sound and text in one space, and
    each clip's class."""
    where = tmp_path_factory.mktemp("told")
    fs = testing.fill(
        where / "store", clips=240, rows=2, dim=16, classes=3, separation=8.0, disjoint=False
    )
    table = fs.manifest()
    truth = dict(zip(table.clip_ids, table.column("label"), strict=True))
    called = dict(zip(sorted(set(truth.values())), SAID, strict=True))
    lines = [f"{clip},{SAID[called[truth[clip]]][i % 4]}" for i, clip in enumerate(truth)]
    (where / "said.csv").write_text("\n".join(["clip_id,text", *map(_quoted, lines)]) + "\n")
    feature = extract_text(where / "said.csv", where / "store", kind="transcript").feature
    learn.train(
        where / "store", "infonce", run_dir=where / "run",
        settings=(f"data.text={feature}", "data.visual=none", "optimiser.epochs=30"),
    )  # fmt: skip
    return where, {clip: called[name] for clip, name in truth.items()}


def _quoted(line):
    clip, _, said = line.partition(",")
    return f'{clip},"{said}"'


def share(result, truth, name):
    return np.mean([truth[n.clip_id] == name for n in result.neighbours])


def test_the_text_of_a_clip_finds_what_the_clip_finds(told):
    where, truth = told
    clip = next(iter(truth))
    (said,) = (
        line.partition(",")[2].strip('"')
        for line in (where / "said.csv").read_text().splitlines()
        if line.startswith(f"{clip},")
    )
    for more in ({"source": "t"}, {"source": "t", "target": "a", "projection": where / "run"}):
        by_clip = learn.search(where / "store", clip, top=20, **more)
        by_text = learn.search(where / "store", words=f" {said} ", encode=rows_of, top=21, **more)
        found = [n for n in by_text.neighbours if n.clip_id != clip or "projection" in more][:20]
        assert [n.clip_id for n in found] == [n.clip_id for n in by_clip.neighbours]
        assert (by_text.clip, by_text.words, by_text.source) == ("", said, "t")
        np.testing.assert_allclose(
            [n.similarity for n in found], [n.similarity for n in by_clip.neighbours], atol=1e-5
        )


def test_new_words_find_text_and_sound(told):
    where, truth = told
    for words, name in (("church bells", "bell"), ("barking dogs", "dog"), ("rained", "rain")):
        among_text = learn.search(where / "store", words=words, encode=rows_of)
        assert (among_text.target, among_text.looked_at) == ("t", 240)
        assert share(among_text, truth, name) > 0.9
        heard = learn.search(
            where / "store", words=words, encode=rows_of, target="a", projection=where / "run"
        )
        assert heard.looked_at == 240
        assert share(heard, truth, name) > 0.9


def test_what_cannot_be_searched_by_a_text(told):
    where, truth = told
    with pytest.raises(InputError, match="no common space"):
        learn.search(where / "store", words="bell", encode=rows_of, target="a")
    with pytest.raises(InputError, match="no word"):
        learn.search(where / "store", words="?!", encode=rows_of)
    with pytest.raises(ConfigError, match="needs `encode`"):
        learn.search(where / "store", words="bell")
    with pytest.raises(InputError, match="not both"):
        learn.search(where / "store", next(iter(truth)), words="bell", encode=rows_of)
    with pytest.raises(InputError, match="not both"):
        learn.search(where / "store")
    with pytest.raises(InputError, match="searched from t, not from a"):
        learn.search(where / "store", words="bell", encode=rows_of, source="a")
    with pytest.raises(InputError, match="made by another encoder"):
        learn.search(
            where / "store", words="bell", encode=partial(rows_of, encoder="ngrams:dim=64")
        )


def test_the_command(told, monkeypatch, capsys):
    where, truth = told
    asked = ["--words", "a bell", "--to", "a", "--projection", str(where / "run"), "--json"]
    monkeypatch.setattr("sys.argv", ["learn", "search", str(where / "store"), *asked])
    with pytest.raises(SystemExit) as done:
        cli.learn_main()
    result = json.loads(capsys.readouterr().out)
    assert done.value.code == 0
    assert (result["words"], result["clip"]) == ("a bell", "")
    assert np.mean([truth[row["clip_id"]] == "bell" for row in result["results"]]) > 0.9
    monkeypatch.setattr("sys.argv", ["learn", "search", str(where / "store")])
    with pytest.raises(SystemExit) as done:
        cli.learn_main()
    assert done.value.code == 2
    assert "name a clip or a text" in capsys.readouterr().err
