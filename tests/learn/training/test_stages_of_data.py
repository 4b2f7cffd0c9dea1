"""Stages that differ in their clips, and trainings that begin where another one ended."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import learn
import store
from learn.data.batching import Batching
from learn.training import recipe
from learn.training.dataset import load_setup
from learn.training.runs import load_run, take_space
from store import plugins, testing
from store.errors import ConfigError, InputError

TWO = """
[projection]
name = "linear"
dim_out = 6
residual = false
[optimiser]
epochs = 2
watch = "none"
[[stages]]
name = "pretrain"
objective = { name = "infonce" }
[[stages]]
name = "tune"
objective = { name = "cross_entropy" }
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """240 clips; some to train on lack labels, and others are in a split of their own."""
    where = tmp_path_factory.mktemp("stages")
    fs = testing.fill(where / "s", clips=240, rows=2, dim=6, classes=6, disjoint=False)
    table = fs.manifest()
    lines, columns = ["path,split,label"], (table.column("split"), table.column("label"))
    for number, (clip, split, label) in enumerate(zip(table.clip_ids, *columns, strict=True)):
        if split == "train" and number % 3 == 0:
            split = "extra"
        lines.append(f"{clip},{split},{label if split != 'train' or number % 2 else ''}")
    (where / "m.csv").write_text("\n".join(lines) + "\n")
    (where / "two.toml").write_text(TWO)
    return where


def setup(made, *changes, text=TWO):
    path = made / "now.toml"
    path.write_text(text)
    return load_setup(made / "s", made / "m.csv", recipe.load(path, changes))


def of_manifest(made, *splits, labelled=False):
    table = store.read_manifest(made / "m.csv", ids_suffice=True)
    rows = zip(table.clip_ids, table.column("split"), table.column("label"), strict=True)
    return {clip for clip, split, label in rows if split in splits and (label or not labelled)}


def test_a_stage_without_labels_has_all_clips_and_a_supervised_one_those_that_have_one(made):
    known = setup(made)
    ids = np.array(known.data.clips.ids)
    first, second = (set(ids[members]) for members in known.of_stages)
    assert first == of_manifest(made, "train")
    assert second == of_manifest(made, "train", labelled=True)
    assert len(second) < len(first)


def test_a_stage_may_name_a_split_and_other_labels_stay_unknown(made):
    changes = ("stages.pretrain.data.split=extra", "stages.tune.data.labels=required")
    known = setup(made, *changes)
    ids, labelled = np.array(known.data.clips.ids), known.data.clips.labelled
    first, second = (set(ids[members]) for members in known.of_stages)
    assert first == of_manifest(made, "extra")
    assert second == of_manifest(made, "train", labelled=True)
    assert set(ids[labelled]) == second, "labels of the split without supervision were learnt"
    assert known.data.clips.split == "extra+train"
    both = setup(made, "stages.pretrain.data.split=all")
    assert len(both.of_stages[0]) == 240
    assert both.val is None


def test_what_a_stage_cannot_have_is_one_line(made):
    with pytest.raises(ConfigError, match=r"stage tune: objective cross_entropy needs labels"):
        setup(made, "stages.tune.data.labels=any")
    with pytest.raises(InputError, match="no clip is in split 'nowhere'"):
        setup(made, "stages.pretrain.data.split=nowhere")
    with pytest.raises(ConfigError, match=r"labels='some' is none of"):
        setup(made, "stages.pretrain.data.labels=some")


def test_each_stage_learns_from_its_clips_alone(made, tmp_path):
    learn.train(
        made / "s", made / "two.toml", settings=("stages.pretrain.data.split=extra",),
        manifest=made / "m.csv", run_dir=tmp_path / "run",
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    clips = {
        name: sum(line["clips"] for line in lines
                  if line["event"] == "step" and line["stage"] == name and line["epoch"] == 0)
        for name in ("pretrain", "tune")
    }  # fmt: skip
    assert clips == {
        "pretrain": len(of_manifest(made, "extra")),
        "tune": len(of_manifest(made, "train", labelled=True)),
    }
    assert load_run(tmp_path / "run").fitted_on == (
        of_manifest(made, "extra") | of_manifest(made, "train", labelled=True)
    )
    assert {line["stage"]: line["clips"] for line in lines if line["event"] == "round"} == clips


def test_members_of_streamed_blocks_are_met_once():
    blocks = [np.array([3, 1]), np.array([0, 4]), np.array([5, 2])]
    members = np.array([0, 1, 3, 4])
    order = Batching(batch_size=2, disk_blocks=blocks, at_once=1, members=members)
    windows = order.epoch(6, np.random.default_rng(0))
    met = torch.cat([batch for window in windows for batch in window.batches])
    assert sorted(met.tolist()) == members.tolist()
    in_memory = Batching(batch_size=2, members=members).epoch(6, np.random.default_rng(0))
    met = torch.cat([batch for window in in_memory for batch in window.batches])
    assert sorted(met.tolist()) == members.tolist()


@pytest.fixture(scope="module")
def first(made):
    """A run of the unlabelled clips."""
    changes = ("data.split=extra", "stages.tune.optimiser.epochs=1")
    learn.train(
        made / "s", made / "two.toml", settings=changes, manifest=made / "m.csv",
        run_dir=made / "first",
    )  # fmt: skip
    return made / "first"


def test_a_training_begins_where_another_one_ended(made, first, tmp_path):
    """With a rate too small to move anything the space stays that of the run, its means too."""
    one = made / "one.toml"
    one.write_text(TWO.split("[[stages]]", maxsplit=1)[0] + '[objective]\nname = "cross_entropy"\n')
    asked = {"manifest": made / "m.csv", "settings": ("optimiser.learning_rate=1e-30",)}
    learn.train(made / "s", one, run_dir=tmp_path / "on", init=first, **asked)
    learn.train(made / "s", one, run_dir=tmp_path / "anew", **asked)
    then, on, anew = (
        load_file(path / "weights.safetensors")
        for path in (first, tmp_path / "on", tmp_path / "anew")
    )
    space = [key for key in then if not key.startswith("objective.")]
    assert any(key.endswith("mean") for key in space)
    for key in space:
        torch.testing.assert_close(on[key], then[key])
        assert not torch.equal(anew[key], then[key])
    run, before = load_run(tmp_path / "on"), load_run(first)
    assert run.trained_on > before.trained_on
    assert run.fitted_on == before.fitted_on | of_manifest(made, "train", labelled=True)
    provenance = json.loads((tmp_path / "on/provenance.json").read_text())
    assert provenance["init"]["run"] == str(first)


def test_a_run_that_does_not_fit_is_one_line(made, first, tmp_path):
    asked = {"manifest": made / "m.csv", "run_dir": tmp_path / "on", "init": first}
    with pytest.raises(ConfigError, match=r"another projection or network: .* is \(6, 6\) there"):
        learn.train(made / "s", made / "two.toml", settings=("projection.dim_out=5",), **asked)
    with pytest.raises(ConfigError, match="projections are solved"):
        learn.train(made / "s", "whiten", **asked)
    run = load_run(first)
    with pytest.raises(ConfigError, match="and this training has other; a run is begun from"):
        take_space(run.space, run, {"visual": "other"})
    assert not (tmp_path / "on").exists()


def test_what_tells_classes_apart_refuses_a_single_one(tmp_path):
    """Of every objective that comes with the package: those with labels of one class each."""
    path = tmp_path / "store"
    testing.fill(path, clips=24, rows=2, dim=8, classes=1, disjoint=False)
    family = "learn.training.objectives"
    asked = {name: plugins.module(family, name).TRAITS for name in plugins.names(family)}
    needy = {n for n, traits in asked.items() if traits.supervised and not traits.several_labels}
    assert {"protonet", "supcon", "cross_entropy", "ccl", "arn", "cjme"} <= needy
    for name in asked:
        file = tmp_path / f"{name}.toml"
        file.write_text(f'[projection]\nname = "mlp"\n[objective]\nname = "{name}"\n')
        asking = (path, None, recipe.load(file))
        if name in needy:
            with pytest.raises(ConfigError, match="needs two classes to tell apart"):
                load_setup(*asking)
        else:
            assert load_setup(*asking).data.clips.classes in ((), ("class000",))
