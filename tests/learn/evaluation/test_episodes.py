"""`learn.run_episodes` from a store on disk to the JSON object."""

import json
import re

import numpy as np
import pytest
import torch

import learn
import store
from learn.commands.tables import episodes_table
from learn.data.clips import load_clips
from learn.data.rows import choose_feature, load_rows
from learn.evaluation.compared import context_of
from learn.fewshot.modes import Pair
from learn.fewshot.statistics import ci95
from store import plugins, testing
from store.errors import (
    ConfigError,
    InputError,
    MicroshotError,
    MissingFile,
    NotAStore,
    NotEnoughClips,
    UnknownColumn,
    UnknownFeature,
    UnknownPlugin,
)

FEW = {"ways": 4, "queries": 5, "episodes": 60}


def first_row(path, **asked):
    return learn.run_episodes(path, **{**FEW, "support": ("v",), **asked}).results[0]


def test_separate_classes_are_told_apart_and_equal_ones_are_not(tmp_path):
    for name, separation, low, high in (("far", 40.0, 0.99, 1.0), ("same", 0.0, 0.22, 0.28)):
        testing.fill(
            tmp_path / name, clips=400, rows=4, dim=16, classes=20, separation=separation,
            disjoint=False,
        )  # fmt: skip
        heads = ("prototypes", "prototypes:metric=cl2n,centre=support", "nearest", "logistic")
        result = learn.run_episodes(
            tmp_path / name, ways=4, queries=2, episodes=400, heads=heads, split="all"
        )
        for row in result.results:
            assert low <= row.accuracy <= high, (name, row.head, row.support)


def test_the_answer_is_that_of_a_loop_over_episodes(filled):
    """Drawn episodes, raw mean vectors, nearest class mean: all by hand."""
    result = learn.run_episodes(filled, **FEW, shots=(3,), support=("v",), heads=("prototypes",))
    (draw,), (row,) = result.draws, result.results
    fs = store.open(filled)
    clips = load_clips(fs.manifest(), split="test", label="label")
    rows = load_rows(choose_feature(fs, "visual", None), clips.ids)
    usable = [clip for clip, ok in zip(clips.ids, rows.valid, strict=True) if ok]
    mean = {}
    for clip in usable:
        values, _ = fs[fs.features[1]].read([clip])
        mean[clip] = values.astype(np.float64).mean(0)
    label = dict(zip(fs.manifest().clip_ids, fs.manifest().column("label"), strict=True))
    accuracy = []
    for episode in draw.indices:
        names = [[usable[i] for i in of_class] for of_class in episode]
        prototype = [np.mean([mean[c] for c in of_class[:3]], axis=0) for of_class in names]
        correct = []
        for of_class in names:
            assert len({label[c] for c in of_class}) == 1
            for clip in of_class[3:]:
                d = [((mean[clip] - p) ** 2).sum() for p in prototype]
                correct.append(names[int(np.argmin(d))] is of_class)
        accuracy.append(np.mean(correct))
    np.testing.assert_allclose(row.of_episodes, accuracy)
    assert row.accuracy == pytest.approx(np.mean(accuracy))
    assert row.ci95 == pytest.approx(ci95(np.array(accuracy), "t-ddof1"))


def test_everything_is_scored_on_the_same_clips(filled):
    result = learn.run_episodes(filled, **FEW, shots=(1, 2), heads=("prototypes", "nearest"))
    dropped = result.sampling["dropped"]
    assert 0 < dropped["no visual"] < dropped["no audio"]
    assert dropped["no label"] == 0
    assert len(result.results) == 2 * 3 * 2
    (clips,) = {row.clips for row in result.results}
    of_split = len(store.open(filled).manifest().select(split="test"))
    assert clips == result.sampling["clips"] == of_split - dropped["no audio"]
    alone = learn.run_episodes(filled, **FEW, support=("v",))
    assert alone.sampling["clips"] == of_split - dropped["no visual"]
    assert "no audio" not in alone.sampling["dropped"]


def test_groups_are_kept_apart_unless_switched_off(filled):
    fs = store.open(filled)
    group = dict(zip(fs.manifest().clip_ids, fs.manifest().column("group"), strict=True))

    def shared(result):
        clips = load_clips(fs.manifest(), split="test", label="label")
        rows = load_rows(choose_feature(fs, "visual", None), clips.ids)
        ids = [clip for clip, ok in zip(clips.ids, rows.valid, strict=True) if ok]
        together = 0
        for of_class in result.draws[0].indices.reshape(-1, 6):
            groups = [group[ids[i]] for i in of_class]
            together += groups[0] in groups[1:]
        return together

    on = learn.run_episodes(filled, **FEW, support=("v",))
    off = learn.run_episodes(filled, **FEW, support=("v",), group="none")
    assert on.sampling["group"] == "group"
    assert off.sampling["group"] is None
    assert shared(on) == 0 < shared(off)


def test_the_json_holds_what_was_asked_and_found(filled):
    result = learn.run_episodes(
        filled, **FEW, shots=(1, 5), seed=3, ci="normal-ddof0", heads=("prototypes",)
    ).to_dict()
    assert json.loads(json.dumps(result)) == result
    head = result["episodes"]
    asked = {"ways": 4, "queries": 5, "episodes": 60, "seed": 3, "split": "test", "label": "label"}
    assert asked.items() <= head.items()
    assert [draw["shots"] for draw in head["draws"]] == [1, 5]
    assert len(head["sha256"]) == 64
    row = result["results"][0]
    assert list(row) == [
        "head", "projection", "support", "query", "ways", "shots", "queries", "episodes",
        "accuracy", "ci95", "ci_method", "clips", "seconds", "untrained", "transductive",
        "centred_by", "seen_in_training", "trained", "metric", "parts", "fusion", "weights",
        "prior", "guard", "projected",
    ]  # fmt: skip
    assert (row["head"], row["projection"]) == ("prototypes", "none")
    assert row["ci_method"] == "normal-ddof0"
    assert (row["untrained"], row["transductive"], row["centred_by"]) == (False, False, "none")


def test_saved_episodes_are_scored_again(filled, tmp_path):
    file = tmp_path / "e.safetensors"
    first = learn.run_episodes(filled, **FEW, shots=(1, 2), save_episodes=file)
    again = learn.run_episodes(filled, episodes_file=file, ways=2, shots=(9,), seed=9)
    drawn, kept = (result.to_dict()["episodes"] for result in (first, again))
    assert [draw.pop("classes_of_too_few_clips") for draw in drawn["draws"]] == [[], []]
    assert [draw.pop("classes_of_too_few_clips") for draw in kept["draws"]] == [None, None]
    assert kept == drawn  # but for what the file does not say
    for a, b in zip(first.results, again.results, strict=True):
        assert np.array_equal(a.of_episodes, b.of_episodes)
    # Fewer modalities leave more clips; the file's are picked out of them.
    part = learn.run_episodes(filled, episodes_file=file, support=("a",)).results
    assert np.array_equal(part[0].of_episodes, first.results[2].of_episodes)
    with pytest.raises(InputError, match="another manifest or split"):
        learn.run_episodes(filled, episodes_file=file, split="train")
    with pytest.raises(MissingFile):
        learn.run_episodes(filled, episodes_file=tmp_path / "none")


def test_shots_are_drawn_apart_from_one_another(filled):
    alone = learn.run_episodes(filled, **FEW, shots=(1,), support=("v",))
    beside = learn.run_episodes(filled, **FEW, shots=(5, 1, 1), support=("v",))
    assert [draw.shots for draw in beside.draws] == [5, 1]
    assert beside.draws[1].sha256 == alone.draws[0].sha256
    assert np.array_equal(beside.results[1].of_episodes, alone.results[0].of_episodes)


def test_cl2n_is_centred_by_the_training_split_of_each_modality(filled):
    """Shifted features: only the base mean brings them back, and it is that of `train` alone."""
    row = first_row(filled, heads=("prototypes:metric=cl2n",))
    assert row.centred_by == "base"
    with pytest.raises(ConfigError, match="centre=support"):
        first_row(filled, heads=("prototypes:metric=cl2n",), split="all")
    with pytest.raises(ConfigError, match="centre=support"):
        first_row(filled, heads=("prototypes:metric=cl2n",), split="train")
    assert (
        first_row(filled, heads=("prototypes:metric=cl2n,centre=support",), split="all").accuracy
        > 0.5
    )


def test_each_side_is_centred_by_the_base_split_in_its_own_mode():
    rng = torch.Generator().manual_seed(0)
    scored, base = (
        Pair(
            support=torch.randn(9, 3, generator=rng) + shift,
            query=torch.randn(9, 3, generator=rng) - shift,
            modality_dims=(3,),
        )
        for shift in (0.0, 5.0)
    )
    context = context_of(scored, base)
    torch.testing.assert_close(context.support_mean, base.support.mean(0))
    torch.testing.assert_close(context.query_mean, base.query.mean(0))
    assert context_of(scored, None).query_mean is None


def test_another_manifest_brings_labels_of_another_task(filled, tmp_path):
    table = store.open(filled).manifest()
    lines = ["path,parity,split"]
    for clip, label in zip(table.clip_ids, table.column("label"), strict=True):
        parity = int(label[-1]) % 2
        lines.append(f"{clip},{'odd' if parity else 'even'},test")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    result = learn.run_episodes(
        filled, manifest=tmp_path / "m.csv", label="parity", ways=2, queries=5, episodes=9
    )
    assert result.sampling["classes"] == 2
    assert result.sampling["group"] is None


def test_random_weights_are_stamped_on_the_rows_they_made(tmp_path):
    fs = testing.fill(tmp_path / "s", clips=80, rows=2, dim=4, classes=4, disjoint=False)
    notes = {"untrained": True}
    spec = store.FeatureSpec(slug="random", modality="visual", dim=4, identity={}, notes=notes)
    clips = fs.manifest().clip_ids
    fs.add_feature(spec).commit(
        store.UnitRows(
            clip_ids=clips,
            values=np.random.default_rng(0).normal(size=(80, 4)).astype(np.float16),
            row_time_ms=np.zeros(80, np.int32),
            row_count=np.ones(80, np.uint16),
            status=np.zeros(80, np.uint8),
            media_sha256=np.zeros((80, 32), np.uint8),
            detail=("",) * 80,
        )
    )
    asked = {"ways": 2, "queries": 2, "episodes": 5, "split": "all"}
    with pytest.raises(UnknownFeature, match="2 visual features"):
        learn.run_episodes(fs.path, **asked)
    assert learn.run_episodes(fs.path, **asked, support=("a",)).results[0].untrained is False
    rows = learn.run_episodes(fs.path, **asked, visual="random").results
    assert {row.support: row.untrained for row in rows} == {"v": True, "a": False, "av": True}


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"heads": ("prototype",)}, UnknownPlugin, "did you mean 'prototypes'"),
        ({"label": "lable"}, UnknownColumn, "did you mean 'label'"),
        ({"group": "goup"}, UnknownColumn, "did you mean 'group'"),
        ({"split": "tset"}, InputError, "did you mean 'test'"),
        ({"support": ("x",)}, ConfigError, "no mode 'x'"),
        ({"support": ("v",), "query": ("a",)}, InputError, "learn train"),
        ({"visual": "simclr"}, UnknownFeature, "simclr"),
        ({"ci": "bootstrap"}, ConfigError, "t-ddof1"),
        ({"shots": (40,)}, NotEnoughClips, "Lower ways, shots or queries"),
        ({"shots": ()}, ConfigError, "shots"),
        ({"ways": 1}, ConfigError, "ways=1 is less than 2"),
        ({"projections": ("nowhere",)}, MissingFile, "learn train"),
        ({"manifest": "nowhere.csv"}, MissingFile, "nowhere.csv"),
    ],
)
def test_what_cannot_be_done_is_one_line(filled, asked, error, says):
    with pytest.raises(error) as refusal:
        learn.run_episodes(filled, **{**FEW, **asked})
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(NotAStore):
        learn.run_episodes(tmp_path)
    store.create(tmp_path / "empty")
    with pytest.raises(MicroshotError):
        learn.run_episodes(tmp_path / "empty")


def test_a_missing_modality_says_how_to_get_it(tmp_path):
    fs = store.create(tmp_path / "s")
    fs.add_manifest(store.Manifest(table={"path": ("a",), "clip_id": ("a",), "label": ("x",)}))
    with pytest.raises(InputError, match="no feature to score"):
        learn.run_episodes(fs.path)
    fs.add_feature(store.FeatureSpec(slug="v", modality="visual", dim=2, identity={}))
    with pytest.raises(InputError, match=r"need audio features.*extract run MANIFEST --audio"):
        learn.run_episodes(fs.path, support=("av",))


def test_progress_counts_rows(filled):
    seen = []
    learn.run_episodes(
        filled, **FEW, shots=(1, 2), progress=lambda *update: seen.append(update[:2])
    )
    assert seen == [(i, 6) for i in range(1, 7)]


def test_a_store_of_silent_clips_is_refused_in_a_line(tmp_path):
    testing.fill(tmp_path / "s", clips=60, rows=1, dim=8, classes=4, silent_share=1.0)
    with pytest.raises(
        InputError, match=r"no clip of split 'all' can be scored \(60 with no audio"
    ):
        learn.run_episodes(tmp_path / "s", split="all", episodes=5, support=("av",))


def test_clips_left_out_for_lack_of_sound_are_told_where_too_few_remain(tmp_path):
    testing.fill(tmp_path / "s", clips=80, rows=1, dim=8, classes=4, silent_share=0.5)
    with pytest.raises(NotEnoughClips, match=r"Left out are \d+ with no audio; name modes with"):
        learn.run_episodes(
            tmp_path / "s", split="all", ways=4, queries=19, episodes=5, support=("av",)
        )


def test_classes_gone_for_lack_of_sound_are_named_with_numbers_that_work(tmp_path):
    fs = testing.fill(tmp_path / "s", clips=80, rows=1, dim=8, classes=4, disjoint=False)
    table = fs.manifest()
    spec = fs[next(n for n in fs.features if fs[n].modality == "audio")].spec
    silent = testing.fill(tmp_path / "t", clips=80, rows=1, dim=8, classes=4, silent_share=0.4)
    assert spec.modality == "audio"
    lines = ["path,label"]
    has = {c for n in silent.features if silent[n].modality == "audio"
           for c, e in silent[n].committed().items() if e.has_rows}  # fmt: skip
    for clip in table.clip_ids:
        lines.append(f"{clip},{'heard' + clip[7:8] if clip in has else 'mute'}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    asked = {"manifest": tmp_path / "m.csv", "split": "all", "episodes": 5, "support": ("av",)}
    with pytest.raises(NotEnoughClips) as refused:
        learn.run_episodes(tmp_path / "t", ways=5, shots=(2,), queries=9, **asked)
    text = str(refused.value)
    assert "1 class has no clip left: mute" in text
    numbers = re.search(r"`ways` (\d+), `shots` (\d+), `queries` (\d+)", text).groups()
    ways, shots, queries = map(int, numbers)
    learn.run_episodes(tmp_path / "t", ways=ways, shots=(shots,), queries=queries, **asked)


def test_classes_not_drawn_are_told_from_classes_that_cannot_be(tmp_path, capsys):
    fs = testing.fill(tmp_path / "s", clips=300, rows=1, dim=8, classes=50, disjoint=False)
    lines = ["path,label"]
    for i, clip in enumerate(fs.manifest().clip_ids):
        lines.append(f"{clip},{'rare' if i == 0 else clip[:8]}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    result = learn.run_episodes(
        tmp_path / "s", manifest=tmp_path / "m.csv", split="all", ways=2, queries=2, episodes=5
    ).to_dict()
    (draw,) = result["episodes"]["draws"]
    assert draw["classes_of_too_few_clips"] == ["rare"]
    assert len(draw["classes_never_drawn"]) >= 40
    episodes_table(result)
    text = " ".join(capsys.readouterr().out.split())
    assert "1-shot without 1 class of too few clips: rare" in text
    assert "not drawn by chance: class" in text


@pytest.mark.parametrize("task", plugins.names("learn.fewshot.tasks"))
def test_nothing_is_said_of_groups_that_are_not_there(tmp_path, task, capsys):
    testing.fill(tmp_path / "s", clips=240, rows=1, dim=8, classes=12, disjoint=True)
    fewer = {"any_way_any_shot": ":min_ways=2", "generalised": ":base_ways=2,base_shots=2"}
    result = learn.run_episodes(
        tmp_path / "s", group="none", task=task + fewer.get(task, ""),
        ways=2, queries=2, episodes=5, split="test",
    ).to_dict()  # fmt: skip
    episodes_table(result)
    text = capsys.readouterr().out
    assert "None" not in text
    assert "groups not separated" in " ".join(text.split())
