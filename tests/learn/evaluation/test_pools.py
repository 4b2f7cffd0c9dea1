"""Shots from one set of clips, queries from another: which clips, which classes, whose rows."""

import shutil

import numpy as np
import pytest

import learn
import store
from learn.commands.tables import episodes_table
from learn.data.clips import QUERY, SHOT
from learn.data.evaluation_set import load_evaluation_set
from learn.evaluation.pools import crossed
from store import testing
from store.errors import InputError

FEW = {"ways": 3, "queries": 4, "episodes": 40}


@pytest.fixture(scope="module")
def manifests(filled, tmp_path_factory):
    """Two manifests of one store: they share three classes, whose codes differ, and a third of
    their clips."""
    where = tmp_path_factory.mktemp("crossed")
    table = store.open(filled).manifest()
    names = sorted(set(table.column("label")))
    rows = list(zip(table.clip_ids, table.column("label"), strict=True))
    for name, classes, third in (("a", names[:5], 0), ("b", [*names[2:5], "zebra"], 1)):
        lines = [f"{c},{label}" for i, (c, label) in enumerate(rows) if i % 3 != third]
        kept = [line for line in lines if line.partition(",")[2] in classes]
        (where / f"{name}.csv").write_text("\n".join(["path,label", *kept]) + "\n")
    return where, names[2:5]


def both(filled, manifests):
    fs = store.open(filled)
    features = {fs[name].modality: fs[name] for name in fs.features}
    return [
        load_evaluation_set(
            store.read_manifest(manifests[0] / f"{name}.csv"), features, split="all", label="label",
            group=None,
        )
        for name in "ab"
    ]  # fmt: skip


def test_every_clip_keeps_its_class_and_rows_and_has_one_role(filled, manifests):
    a, b = both(filled, manifests)
    merged = crossed(a, b, same_store=True)
    assert merged.clips.classes == tuple(manifests[1])
    of = {"support": a, "query": b}
    for i, clip in enumerate(merged.clips.ids):
        name, _, own = clip.partition("/")
        index = of[name].clips.ids.index(own)
        assert (
            of[name].clips.classes[of[name].clips.class_ids[index]]
            == merged.clips.classes[merged.clips.class_ids[i]]
        )
        for m, rows in merged.rows.items():
            theirs = of[name].rows[m]
            first, last = theirs.offsets[index : index + 2]
            assert (
                rows.values[rows.offsets[i] : rows.offsets[i + 1]] == theirs.values[first:last]
            ).all()
        assert merged.clips.roles[i] == {"support": SHOT, "query": QUERY}[name]
    asked = {clip for clip in merged.clips.ids if clip.startswith("query/")}
    assert not {clip.replace("query/", "support/") for clip in asked} & set(merged.clips.ids)
    assert len(asked) > 10
    twice = crossed(a, b, same_store=False)
    assert len(twice.clips) > len(merged.clips)
    assert len(set(twice.clips.groups)) == len(twice.clips.groups)  # no column: each its own


def test_from_the_stores_to_the_result(filled, manifests, tmp_path, capsys):
    where, shared = manifests
    asked = {"manifest": where / "a.csv", "query_manifest": where / "b.csv"}
    file = tmp_path / "e"
    for task in ("n_way_k_shot", "imbalanced", "any_way_any_shot:min_ways=3"):
        result = learn.run_episodes(filled, **FEW, **asked, task=task, save_episodes=file)
        ids = np.array(result.clips.ids)
        draw = result.draws[0]
        assert all(clip.startswith("support/") for clip in ids[draw.support[draw.support >= 0]])
        assert all(clip.startswith("query/") for clip in ids[draw.query[draw.query >= 0]])
        assert result.sampling["query_manifest"].endswith("b.csv")
        assert result.clips.classes == tuple(shared)
        assert all(row.accuracy > 0.6 for row in result.results)
        episodes_table(result.to_dict())
        assert "b.csv" in capsys.readouterr().out
        again = learn.run_episodes(filled, **asked, episodes_file=file)
        assert [r.accuracy for r in again.results] == [r.accuracy for r in result.results]
    with pytest.raises(InputError, match="another manifest or split"):
        learn.run_episodes(filled, manifest=where / "a.csv", episodes_file=file)


def with_groups(filled, path, every):
    """A manifest of a store whose groups are runs of so many clips."""
    table = store.open(filled).manifest()
    cells = zip(table.clip_ids, table.column("label"), strict=True)
    lines = [f"{clip},{label},g{i // every}" for i, (clip, label) in enumerate(cells)]
    half = [line for i, line in enumerate(lines) if i // 8 % 2 == (path.stem == "shots")]
    path.write_text("\n".join(["path,label,group", *half]) + "\n")
    return path


def test_groups_of_one_name_are_one_source_within_a_store(filled, tmp_path):
    """Clips of one group lie side by side in the two manifests; no episode has one on both."""
    shots, queries = (with_groups(filled, tmp_path / f"{n}.csv", 40) for n in ("shots", "queries"))
    result = learn.run_episodes(
        filled, **FEW, manifest=shots, query_manifest=queries, split="all", query_split="all"
    )
    (draw,) = result.draws
    order = {clip: i // 40 for i, clip in enumerate(store.open(filled).manifest().clip_ids)}
    groups = np.array([order[clip.partition("/")[2]] for clip in result.clips.ids])
    for support, query in zip(draw.support, draw.query, strict=True):
        for way in range(FEW["ways"]):
            of_class = set(groups[support[way]].ravel().tolist())
            assert not of_class & set(groups[query[draw.targets == way]].ravel().tolist())
    assert "groups_in_both" not in result.sampling


def test_groups_of_one_name_in_two_stores_are_said(filled, tmp_path, capsys):
    shutil.copytree(filled, tmp_path / "other")
    shots, queries = (with_groups(filled, tmp_path / f"{n}.csv", 40) for n in ("shots", "queries"))
    result = learn.run_episodes(
        filled, **FEW, manifest=shots, query_manifest=queries, split="all", query_split="all",
        query_store=tmp_path / "other",
    )  # fmt: skip
    assert result.sampling["groups_in_both"] == 12
    episodes_table(result.to_dict())
    assert "12 groups have one name in both" in " ".join(capsys.readouterr().out.split())


def test_clips_that_a_projection_was_trained_on_are_known_again(filled, manifests, tmp_path):
    where, _ = manifests
    settings = ("optimiser.epochs=1", "projection.hidden=8", "data.split=all")
    learn.train(
        filled, "infonce", settings=settings, manifest=where / "a.csv", run_dir=tmp_path / "run"
    )
    result = learn.run_episodes(
        filled, **FEW, manifest=where / "a.csv", query_manifest=where / "b.csv",
        projections=(tmp_path / "run",),
    )  # fmt: skip
    shots = sum(clip.startswith("support/") for clip in result.clips.ids)
    assert {row.seen_in_training for row in result.results} == {shots}


def test_another_store_must_have_the_very_feature(filled, tmp_path):
    testing.fill(tmp_path / "other", clips=60, rows=1, dim=5, classes=3)
    with pytest.raises(InputError, match="same encoder and settings"):
        learn.run_episodes(filled, **FEW, query_store=tmp_path / "other")


def test_sets_without_a_common_class_are_refused(filled, manifests, tmp_path):
    table = store.open(filled).manifest()
    (tmp_path / "c.csv").write_text(
        "\n".join(["path,label", *(f"{clip},zebra" for clip in table.clip_ids)]) + "\n"
    )
    with pytest.raises(InputError, match="0 classes have one name in both"):
        learn.run_episodes(
            filled, **FEW, manifest=manifests[0] / "a.csv", query_manifest=tmp_path / "c.csv"
        )
