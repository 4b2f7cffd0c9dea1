"""Trainings from end to end with encoders of a few numbers: kills, refusals, what is written."""

import json
from pathlib import Path

import pytest
import torch

from learn.finetuning import recipe as recipes
from learn.finetuning.finetune import finetune
from learn.training import checkpoint
from learn.training import recipe as of_rows
from learn.training.run_files import check_finished
from store import read_manifest
from store.errors import ConfigError, InputError, MissingFile, UnknownPlugin, UnknownSetting
from tests.learn.finetuning.conftest import TinyLearner, TinyStream, manifest_of

QUICK = ("optimiser.epochs=3", "optimiser.batch_size=10", "optimiser.warmup_epochs=0")


def train(manifest, run, *changes, recipe="supervised", modalities=("visual",), **how):
    broken = how.pop("broken", frozenset())
    learners = how.pop("learners", None) or {m: TinyLearner(m) for m in modalities}
    return finetune(
        manifest, recipe, learners=learners,
        source=lambda *, looks, memory_bytes: TinyStream(manifest, looks, broken),
        run_dir=run, settings=[*QUICK, *changes], device=torch.device("cpu"), **how,
    )  # fmt: skip


begin = train  # by its name a test may have a quicker one


def files(run: Path) -> dict[str, bytes]:
    kept = {p.name: p.read_bytes() for p in run.iterdir() if p.name != "done.json"}
    return {k: v.replace(str(run).encode(), b"RUN") for k, v in kept.items()}


def test_it_learns_and_says_what_it_did(manifest, tmp_path):
    result = train(manifest, tmp_path / "run", "optimiser.epochs=8")
    assert (result.clips, result.classes, result.val_clips) == (30, 5, 18)
    assert result.epochs == 8
    assert result.steps == 24
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["event"] == "epoch"]
    assert losses[-1] == result.loss < losses[0]
    assert {row["shots"] for row in result.gains} == {1, 5}
    assert "3 classes of split 'val'" in result.validation
    assert result.specs == {"visual": f"tiny:weights={tmp_path / 'run' / 'visual.safetensors'}"}
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert done == json.loads(json.dumps(result.to_dict()))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert len(provenance["media"]) == 30
    assert provenance["encoders"]["visual"]["identity"]["weights"] == {"untrained": True, "seed": 0}


RECIPES = {
    "supervised": ("visual",), "end_to_end": ("visual", "audio"),
    "simclrv2_unlabelled": ("visual",), "audio_unlabelled": ("audio",),
    "two_tower_pixels": ("visual", "audio"), "mae_unlabelled": ("visual",),
}  # fmt: skip
SMALL = ("masked.width=8", "masked.depth=1", "masked.heads=2")


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_after_any_step_it_goes_on_to_the_same_bytes(recipe, manifest, tmp_path):
    """With all recipes more than 20 kills: nine steps of the first, four of each other one."""
    masked = recipe == "mae_unlabelled"
    changes = SMALL if masked else ()
    if recipe != "supervised":
        changes += ("optimiser.epochs=2", "optimiser.batch_size=16")

    def train(*args, **more):
        learners = {m: TinyLearner(m, patches=masked) for m in RECIPES[recipe]}
        return begin(*args, *changes, recipe=recipe, learners=learners, **more)

    whole = train(manifest, tmp_path / "whole")
    assert whole.steps == (9 if recipe == "supervised" else 4)
    for kill in range(1, whole.steps):
        asked = iter(range(1, 1000))
        run = tmp_path / f"killed{kill}"
        with pytest.raises(KeyboardInterrupt):
            train(manifest, run, stop=lambda asked=asked, kill=kill: next(asked) == kill)
        assert (run / "checkpoint.safetensors").is_file()
        again = train(manifest, run, resume=True)
        assert again.gains == whole.gains
        assert files(run) == files(tmp_path / "whole"), kill


def test_a_kill_between_checkpoints_costs_the_steps_since_the_last(manifest, tmp_path, monkeypatch):
    train(manifest, tmp_path / "whole")
    saved = []
    save = checkpoint.save

    def third_time_dead(*args):
        saved.append(args)
        if len(saved) == 3:
            raise MemoryError
        save(*args)

    monkeypatch.setattr("learn.training.checkpoint.save", third_time_dead)
    with pytest.raises(MemoryError):
        train(manifest, tmp_path / "killed", checkpoint_seconds=0.0)
    monkeypatch.undo()
    train(manifest, tmp_path / "killed", resume=True)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_finished_training_is_told_again_and_another_is_not_taken_for_it(manifest, tmp_path):
    first = train(manifest, tmp_path / "run")
    again = train(manifest, tmp_path / "run", resume=True)
    assert again.to_dict() == json.loads(json.dumps(first.to_dict()))
    for changes, how, what in (
        (["optimiser.learning_rate=0.5"], {}, "another recipe"),
        ([], {"learners": {"visual": TinyLearner(seed=1)}}, "another encoders"),
        ([], {"broken": frozenset([3])}, "another clips_sha256"),
    ):
        with pytest.raises(InputError, match=what):
            train(manifest, tmp_path / "run", *changes, resume=True, **how)
    with pytest.raises(InputError, match="exists"):
        train(manifest, tmp_path / "run")


def test_clips_that_fail_are_left_out_and_counted(manifest, tmp_path):
    result = train(manifest, tmp_path / "run", broken=frozenset([0, 1, 40]))
    assert result.failed == {"decode-error": 3}
    assert (result.clips, result.val_clips) == (28, 17)


def nothing_is_left(folder):
    return not folder.exists()


@pytest.mark.parametrize(
    ("changes", "how", "error", "said"),
    [
        ((), {"broken": frozenset(range(48))}, InputError,
         r"none of 48 clips.*: decode-error, as told\)"),
        ((), {"broken": frozenset(range(1, 48))}, InputError, "1 clips to learn from"),
        ((), {"learners": {}, "modalities": ()}, ConfigError, "no encoder"),
        (("data.split=nowhere",), {}, InputError, "no clip is in split"),
        (("data.label=nothing",), {}, InputError, "nothing"),
        (("data.looks=1",), {}, ConfigError, "fewer moments"),
        (("optimiser.batch_size=1",), {}, ConfigError, "batch_size=1 is less than 2"),
        (("optimiser.ways=9",), {}, ConfigError, "less than two clips"),
        (("optimiser.speed=1",), {}, UnknownSetting, "no setting 'speed'"),
        (("objectives.nothing.weight=1",), {}, UnknownPlugin, "no objective 'nothing'"),
        (("objectives.cross_entropy.weight=-1",), {}, ConfigError, "not above 0"),
        (("objectives.prototypes.weight=1",), {"modalities": ("visual", "audio")}, ConfigError,
         "looks at the embeddings of all"),
        (("objectives.multi_label.weight=1",), {}, ConfigError, "several labels"),
        ((), {"recipe": "supervise"}, MissingFile, "did you mean 'supervised'"),
        (("masked.share=0.5",), {}, ConfigError, "or \\[masked\\]"),
        ((), {"recipe": "mae_unlabelled"}, ConfigError, "patch by patch"),
        (("optimiser.learning_rate=1e30", "optimiser.method=sgd"), {}, InputError,
         r"step \d+, in epoch \d"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    changes, how, error, said, manifest, tmp_path
):
    with pytest.raises(error, match=said) as refusal:
        train(manifest, tmp_path / "run", *changes, **how)
    assert "\n" not in str(refusal.value)
    done = tmp_path / "run" / "done.json"
    assert not done.exists()
    if "step" not in said:
        assert nothing_is_left(tmp_path / "run")


def test_one_class_and_a_class_of_one_clip_are_refused(tmp_path):
    one = manifest_of(tmp_path, classes=1, clips=4, val=0)
    with pytest.raises(InputError, match="of 1 class"):
        train(one, tmp_path / "run")
    (tmp_path / "clips.csv").write_text("path,label\na,c0\nb,c0\nc,c1\n")
    alone = read_manifest(tmp_path / "clips.csv")
    with pytest.raises(InputError, match="one clip, and an episode needs two \\(first 'c1'"):
        train(alone, tmp_path / "run", "objectives.protonet.weight=1")
    assert nothing_is_left(tmp_path / "run")
    train(alone, tmp_path / "run")  # whose classifier needs no second


def test_the_first_frames_are_looked_at_in_every_way_that_is_told(manifest, tmp_path):
    """Moments, frozen layers, LARS, rates by layer, parts: each changes the weights."""
    found = {}
    for changes in (
        "data.looks=0", "optimiser.frozen=0.5", "optimiser.layer_decay=0.3",
        "optimiser.method=lars",
        "optimiser.at_once=4", "optimiser.ways=3", "optimiser.seed=1", "head.layers=2",
        "optimiser.statistics=frozen", "frames.grey=0.5", "data.frames=1",
    ):  # fmt: skip
        run = tmp_path / changes.replace("=", "_")
        train(manifest, run, changes, "optimiser.epochs=1")
        found[(run / "visual.safetensors").read_bytes()] = changes
    assert len(found) == 11


def test_recipes_have_headers_and_every_setting_exists():
    rows = recipes.recipes()
    assert set(RECIPES) == {row["name"] for row in rows}
    for row in rows:
        loaded = recipes.load(row["name"])
        assert all(row[fact] for fact in ("summary", "command", "time", "expect", "source")), row
        assert bool(loaded.objectives) != bool(loaded.masked)
        assert "to be measured" not in row["time"] + row["expect"]


def test_banks_are_kept_over_kills_too(manifest, tmp_path):
    """Vectors of remembered clips in the place of the batch, by setting."""
    recipe = tmp_path / "bank.toml"
    recipe.write_text("[head]\nlayers = 1\ndim_out = 4\n[objectives.memory_bank]\nnegatives = 8\n")
    both = ("visual", "audio")
    train(manifest, tmp_path / "whole", recipe=recipe, modalities=both)
    asked = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        train(manifest, tmp_path / "run", recipe=recipe, modalities=both,
              stop=lambda: next(asked) == 4)  # fmt: skip
    train(manifest, tmp_path / "run", recipe=recipe, modalities=both, resume=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_run_of_encoders_is_no_projection(manifest, tmp_path):
    train(manifest, tmp_path / "run")
    with pytest.raises(InputError, match=r"`learn finetune`: .*extract run CLIPS .*visual\.safe"):
        check_finished(tmp_path / "run")


@pytest.mark.parametrize(
    ("load", "name", "command"),
    [(recipes.load, "infonce", "learn train"), (of_rows.load, "supervised", "learn finetune")],
)
def test_a_recipe_of_the_other_command_says_so(load, name, command):
    with pytest.raises(MissingFile, match=f"no recipe '{name}' here, it is one of `{command}`"):
        load(name)


def test_a_val_split_that_is_none_is_refused_and_what_there_is_is_named(manifest, tmp_path):
    with pytest.raises(InputError, match=r"val_split=vall: no clip .*did you mean 'val'"):
        train(manifest, tmp_path / "run", "data.val_split=vall")
    assert not (tmp_path / "run").exists()
    result = train(manifest, tmp_path / "run", "data.val_split=none", "optimiser.epochs=1")
    assert "split 'val'" not in result.validation


@pytest.mark.parametrize(
    ("recipe", "modalities", "says"),
    [
        ("audio_unlabelled", ("visual",), "audio_unlabelled trains .* `audio`, not of `visual`"),
        ("audio_unlabelled", ("visual", "audio"), "`audio`, not of `visual` and `audio`"),
        ("simclrv2_unlabelled", ("audio",), "`visual`, not of `audio`"),
        ("mae_unlabelled", ("audio",), "`visual`, not of `audio`"),
        ("two_tower_pixels", ("visual",), "`visual` and `audio`, not of `visual`;"),
    ],
)
def test_encoders_that_a_recipe_does_not_train_are_refused(
    recipe, modalities, says, manifest, tmp_path
):
    with pytest.raises(ConfigError, match=says):
        train(manifest, tmp_path / "run", recipe=recipe, modalities=modalities)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["supervised", "simclrv2_unlabelled", "two_tower_pixels"])
def test_stacks_of_frames_learn_and_parts_of_a_step_go_on_to_the_same_bytes(
    recipe, manifest, tmp_path
):
    def learners():
        found = {"visual": TinyLearner("visual", stack=3)}
        return found | ({"audio": TinyLearner("audio")} if recipe == "two_tower_pixels" else {})

    changes = ("data.frames=3", "data.looks=6", "optimiser.epochs=2", "optimiser.at_once=4")

    def train_(run, **how):
        return begin(manifest, run, *changes, recipe=recipe, learners=learners(), **how)

    whole = train_(tmp_path / "whole")
    assert whole.gains
    asked = iter(range(1, 1000))
    with pytest.raises(KeyboardInterrupt):
        train_(tmp_path / "killed", stop=lambda: next(asked) == 3)
    train_(tmp_path / "killed", resume=True)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_step_must_show_a_whole_stack(manifest, tmp_path):
    with pytest.raises(ConfigError, match=r"stacks of 3 frames.* set data\.frames=3"):
        train(manifest, tmp_path / "run", learners={"visual": TinyLearner("visual", stack=3)})
    assert not (tmp_path / "run").exists()
