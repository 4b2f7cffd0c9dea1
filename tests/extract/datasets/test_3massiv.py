"""3MASSIV: one concept by two lists, families, and splits across languages."""

import csv

import pytest

from extract.datasets import manifest
from store.errors import ConfigError, InputError

HEADER = "PostIndex,Topic,Emotion,AudioFormat,VideoFormat,Language\n"


def lists(folder, posts, concepts=()):
    """`posts`: (split, post, topic, language); `concepts`: (post, concept, number)."""
    folder.mkdir(exist_ok=True)
    for split in {split for split, *_ in posts}:
        rows = [f"{p},{t},happy,noise,self-shot,{lang}\n" for s, p, t, lang in posts if s == split]
        (folder / f"3massiv_{split}.csv").write_text(HEADER + "".join(rows))
    if concepts:
        rows = [f"{post},{name},{number}\n" for post, name, number in concepts]
        (folder / "3massiv_concept_all.csv").write_text(
            "post_id,concept,concept_id\n" + "".join(rows)
        )
    for _, post, *_ in posts:
        (folder / f"{post}.mp4").touch()


def read(folder, spec="3massiv"):
    output = folder / "m.csv"
    output.unlink(missing_ok=True)
    manifest.write(spec, folder, output)
    with output.open(newline="") as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}


def test_the_missing_concept_is_filled_and_families_come_from_numbers(tmp_path):
    numbers = [(str(i), f"Concept {i}", i) for i in range(10)]
    posts = [("train", str(i), f"concept-{i}" if i % 2 else "", "Hindi") for i in range(10)]
    lists(tmp_path / "d", [*posts, ("val", "99", "CONCEPT 4", "Odia")], numbers)
    rows = read(tmp_path / "d")
    assert [rows[str(i)]["concept"] for i in range(10)] == [f"Concept {i}" for i in range(10)]
    families = ["romance"] * 3 + ["comedy"] * 4 + ["pets and animals"] * 2 + ["Concept 9"]
    assert [rows[str(i)]["family"] for i in range(10)] == families
    # of no concept list: by its topic, under the spelling and number that the lists have
    assert {k: rows["99"][k] for k in ("concept", "concept_id", "family")} == {
        "concept": "Concept 4", "concept_id": "4", "family": "comedy",
    }  # fmt: skip
    assert "topic" not in rows["0"]


def test_lists_that_differ_are_refused_unless_one_counts(tmp_path):
    posts = [("train", "1", "Travel", "Hindi"), ("train", "2", "News", "Hindi")]
    lists(tmp_path / "d", posts, [("1", "Dance", 16), ("2", "news", 29)])
    with pytest.raises(InputError, match=r"concept of 1 of 2 posts.*'Travel'.*'Dance'"):
        read(tmp_path / "d")
    assert read(tmp_path / "d", "3massiv:concept_of=concepts")["1"]["concept"] == "Dance"
    assert read(tmp_path / "d", "3massiv:concept_of=topics")["1"]["concept"] == "Travel"
    lists(tmp_path / "e", posts[:1], [("1", "Travel", 3), ("9", "travel", 4)])
    with pytest.raises(InputError, match="numbers 3 and 4"):
        read(tmp_path / "e")


def test_without_concept_lists_the_topic_is_the_concept(tmp_path):
    lists(tmp_path / "d", [("train", "1", "Travel", "Hindi")])
    row = read(tmp_path / "d")["1"]
    assert row["concept"] == "Travel"
    assert "family" not in row


def test_cross_lingual_splits_share_no_language(tmp_path):
    languages = ["Hindi", "Tamil", "Odia"]
    posts = [
        (split, f"{n}{lang}", "Travel", lang)
        for n, split in enumerate(("train", "val", "test"))
        for lang in languages
    ]
    lists(tmp_path / "d", posts)
    rows = read(tmp_path / "d", "3massiv:test_languages=Tamil")
    assert {c: r["split"] for c, r in rows.items() if r["split"]} == {
        "0Hindi": "train", "0Odia": "train", "1Hindi": "val", "1Odia": "val", "2Tamil": "test",
    }  # fmt: skip
    rows = read(tmp_path / "d", "3massiv:test_languages=Tamil,val_languages=Odia")
    assert {c: r["split"] for c, r in rows.items() if r["split"]} == {
        "0Hindi": "train", "1Odia": "val", "2Tamil": "test",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"no post is in 'Tamul'.*Tamil"):
        read(tmp_path / "d", "3massiv:test_languages=Tamul")
    for wrong in ("val_languages=Odia", "test_languages=Odia,val_languages=Odia"):
        with pytest.raises(ConfigError):
            read(tmp_path / "d", f"3massiv:{wrong}")
