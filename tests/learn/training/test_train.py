import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import learn
import store
from learn.data.rows import choose_feature, load_rows
from learn.training import unseen
from learn.training.dataset import _comparable
from learn.training.loop import Trainer
from learn.training.runs import load_run
from store import testing
from store.errors import ConfigError, InputError, MissingFile, UnknownColumn, UnknownFeature

QUICK = ("optimiser.epochs=3", "projection.hidden=16", "projection.dim_out=8")


def accuracy(path, run, support, query, **asked):
    result = learn.run_episodes(
        path, ways=5, queries=5, episodes=100, projections=(run,), support=(support,),
        query=(query,), **asked,
    )  # fmt: skip
    return result.results[0].accuracy


@pytest.fixture(scope="module")
def quick(paired, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "quick"
    return run, learn.train(paired, "infonce", settings=QUICK, run_dir=run)


@pytest.mark.parametrize("recipe", ["infonce", "cross_entropy"])
def test_training_makes_the_modalities_meet(paired, tmp_path, recipe):
    """Sound answers what sight has taught: chance before, nearly as good as one modality after."""
    settings = ("projection.dim_out=16", "optimiser.epochs=20")
    untrained = tmp_path / "untrained"
    # Not residual: what starts at zero has a direction after the smallest of steps.
    hardly = (*settings, "optimiser.epochs=1", "optimiser.learning_rate=1e-9")
    hardly = (*hardly, "projection.residual=false")
    learn.train(paired, recipe, settings=hardly, run_dir=untrained)
    done = learn.train(paired, recipe, settings=settings, run_dir=tmp_path / "run")
    assert done.clips == 400
    assert done.val_clips == 80
    for modes in (("v", "a"), ("a", "v")):
        assert accuracy(paired, untrained, *modes) < 0.4
        assert accuracy(paired, tmp_path / "run", *modes) > 0.6


def test_the_seed_decides_every_bit(paired, quick, tmp_path):
    torch.manual_seed(77)  # nobody else's seed matters
    state = torch.random.get_rng_state()
    learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state)
    other = (*QUICK, "optimiser.seed=1")
    learn.train(paired, "infonce", settings=other, run_dir=tmp_path / "other")
    first, again, other = (
        load_file(run / "weights.safetensors")
        for run in (quick[0], tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_run_says_all_of_itself(paired, quick):
    run, done = quick
    assert {p.name for p in run.iterdir()} == {
        "config.json", "metrics.jsonl", "weights.safetensors", "provenance.json", "done.json",
        ".lock",
    }  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["projection"]["audio"]["hidden"] == 16
    assert config["recipe"]["stages"][0]["optimiser"]["seed"] == 0
    assert len(config["sha256"]) == 64
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 13))  # 400 clips by 128, three times
    assert [line["no_gradient"] for line in lines if line["event"] == "round"] == [[]]
    lines = [line for line in lines if line["event"] == "epoch"]
    assert [line["epoch"] for line in lines] == [0, 1, 2] == list(range(done.epochs))
    assert lines[done.best_epoch]["val_loss"] == done.val_loss
    assert done.val_loss == min(line["val_loss"] for line in lines)
    of_first = [(line["loss"], line["clips"]) for line in steps if line["epoch"] == 0]
    assert lines[0]["loss"] == pytest.approx(sum(x * n for x, n in of_first) / 400)
    provenance = json.loads((run / "provenance.json").read_text())
    fs = store.open(paired)
    assert provenance["store_id"] == fs.store_id
    assert sorted(provenance["features"].values()) == fs.features
    assert provenance["clips"] == sorted(fs.manifest().select(split="train").clip_ids)
    assert json.loads((run / "done.json").read_text())["run"] == str(run)


def test_reading_back_gives_the_trained_towers(paired, quick):
    run = load_run(quick[0])
    fs = store.open(paired)
    ids = fs.manifest().clip_ids[:9]
    rows = {m: load_rows(choose_feature(fs, m, None), ids) for m in ("visual", "audio")}
    vectors = run.embed(rows)
    assert {m: v.shape for m, v in vectors.items()} == {"visual": (9, 8), "audio": (9, 8)}
    torch.testing.assert_close(vectors["audio"].norm(dim=1), torch.ones(9))
    weights = load_file(quick[0] / "weights.safetensors")
    assert torch.equal(run.space.of("visual").mean, weights["visual.mean"])
    assert torch.equal(load_run(quick[0]).embed(rows)["visual"], vectors["visual"])


def test_the_best_epoch_is_kept_and_patience_ends_it(filled, tmp_path):
    """A rate that overfits: the weights are those of the best epoch, not of the last."""
    settings = ("optimiser.learning_rate=3e-2", "optimiser.patience=2", "optimiser.epochs=30")
    done = learn.train(filled, "infonce", settings=settings, run_dir=tmp_path / "long")
    assert done.epochs == done.best_epoch + 3 < 30
    short = (*settings, f"optimiser.epochs={done.best_epoch + 1}")
    learn.train(filled, "infonce", settings=short, run_dir=tmp_path / "short")
    long, short = (load_file(tmp_path / r / "weights.safetensors") for r in ("long", "short"))
    assert all(torch.equal(long[key], short[key]) for key in long)


def test_clips_scored_and_trained_on_are_counted(paired, quick):
    asked = {"ways": 5, "queries": 5, "episodes": 9, "projections": ("none", quick[0])}
    for split, seen in (("test", 0), ("train", 400), ("val", 80), ("all", 480)):
        results = learn.run_episodes(paired, split=split, **asked).results
        assert {r.projection: r.seen_in_training for r in results} == {
            "none": 0,
            str(quick[0]): seen,
        }


def test_classes_apart_are_judged_by_episodes(tmp_path):
    testing.fill(tmp_path / "s", clips=120, rows=2, dim=8, classes=8)
    split = (*QUICK, "optimiser.watch=split")
    done = learn.train(tmp_path / "s", "cross_entropy", settings=split, run_dir=tmp_path / "r")
    assert (done.val_clips, done.val_loss) == (30, None)
    assert 0.5 < done.val_accuracy <= 1
    told = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in told]
    seen = [line["val_accuracy"] for line in lines if line["event"] == "epoch"]
    assert done.val_accuracy == max(seen) == seen[done.best_epoch]
    asked = (*QUICK, "optimiser.watch=loss")
    with pytest.raises(InputError, match=r"classes that training has not; use episodes or none"):
        learn.train(tmp_path / "s", "cross_entropy", settings=asked, run_dir=tmp_path / "x")
    unsupervised = learn.train(tmp_path / "s", "infonce", settings=QUICK, run_dir=tmp_path / "u")
    assert unsupervised.val_clips == 30


def test_validation_labels_mean_what_the_training_labels_do(make_clips):
    """Classes of the training come first and keep their codes; others follow."""
    clips = replace(make_clips([2, 3, 1]), classes=("b", "c", "d"))
    val = _comparable(clips, ("a", "c", "d"))
    assert val.classes == ("a", "c", "d", "b")
    told = [val.classes[code] for code in val.class_ids]
    assert told == ["b"] * 2 + ["c"] * 3 + ["d"]


def test_without_labels_only_unsupervised_training_works(tmp_path):
    fs = testing.fill(tmp_path / "s", clips=60, rows=2, dim=8, classes=4)
    kept = fs.manifest()
    bare = {key: kept.column(key) for key in kept.columns if key not in ("label", "split")}
    (path,) = (tmp_path / "s" / "manifests").iterdir()
    path.unlink()
    fs.add_manifest(store.Manifest(table=bare))
    assert learn.train(fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "u").clips == 60
    with pytest.raises(UnknownColumn):
        learn.train(fs.path, "cross_entropy", settings=QUICK, run_dir=tmp_path / "c")
    named = (*QUICK, "data.label=topic")
    with pytest.raises(UnknownColumn):
        learn.train(fs.path, "infonce", settings=named, run_dir=tmp_path / "n")


def test_one_modality_is_enough_for_a_supervised_objective(paired, tmp_path):
    learn.train(
        paired, "cross_entropy", settings=(*QUICK, "data.visual=none"), run_dir=tmp_path / "r"
    )
    result = learn.run_episodes(
        paired, queries=5, episodes=9, projections=(tmp_path / "r",)
    ).results
    assert [(r.support, r.query) for r in result] == [("a", "a")]
    with pytest.raises(InputError, match="the projection gives none"):
        accuracy(paired, tmp_path / "r", "v", "v")


def test_an_existing_directory_is_refused(paired, quick, tmp_path):
    for path in (quick[0], tmp_path):
        with pytest.raises(InputError, match="exists; name a new directory"):
            learn.train(paired, "infonce", settings=QUICK, run_dir=path)


def test_an_unfinished_run_is_refused(paired, tmp_path, monkeypatch):
    """The process dies after the weights: all is there but the last file."""

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("learn.training.runs.finish", dies)
    with pytest.raises(KeyboardInterrupt):
        learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "r")
    assert (tmp_path / "r" / "weights.safetensors").exists()
    with pytest.raises(MissingFile, match=r"unfinished.*--resume"):
        load_run(tmp_path / "r")
    with pytest.raises(MissingFile, match="no run"):
        load_run(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "provenance.json"])
def test_a_changed_run_is_refused(paired, tmp_path, name):
    learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "r")
    path = tmp_path / "r" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=f"{name} was changed"):
        load_run(tmp_path / "r")


def test_features_the_run_was_not_trained_on_are_refused(paired, filled, quick):
    with pytest.raises(InputError, match=r"was trained on visual-.*, not on synthetic-visual"):
        learn.run_episodes(filled, projections=(quick[0],), queries=5)


def test_a_loss_that_explodes_ends_the_run(paired, tmp_path):
    settings = (*QUICK, "optimiser.learning_rate=1e30")
    with pytest.raises(InputError, match=r"lower optimiser\.learning_rate"):
        learn.train(paired, "infonce", settings=settings, run_dir=tmp_path / "r")
    assert not (tmp_path / "r" / "done.json").exists()


def test_an_unknown_feature_is_refused(paired, tmp_path):
    settings = (*QUICK, "data.visual=simclr")
    with pytest.raises(UnknownFeature):
        learn.train(paired, "infonce", settings=settings, run_dir=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_progress_counts_epochs(paired, tmp_path):
    seen = []
    learn.train(
        paired, "infonce", settings=QUICK, run_dir=tmp_path / "r",
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    assert [told[:2] for told in seen] == [(1, 3), (2, 3), (3, 3)]


STAGED = """
[projection]
name = "mlp"
hidden = 16
dim_out = 8
[objective]
name = "infonce"
[optimiser]
epochs = 2
batch_size = 100
schedule = "cosine"
[[stages]]
name = "align"
rounds = 2
[[stages]]
name = "name"
train = ["audio", "objective"]
objective = { name = "cross_entropy" }
optimiser = { method = "sgd", learning_rate = 0.1 }
"""


class Killed(BaseException):
    """What SIGKILL leaves behind, without waiting for a process to start."""


def dying(monkeypatch, after):
    """Trainings die after so many steps, with a checkpoint after every third."""
    steps = itertools.count(1)

    def counted(self):
        self.log.flush()
        step = next(steps)
        if step == after:
            raise Killed
        if step % 3 == 0:
            self._save()

    monkeypatch.setattr(Trainer, "_save_if_due", counted)


def same_files(whole, parts):
    names = {path.name for path in whole.iterdir()} - {"done.json"}
    assert {path.name for path in parts.iterdir()} - {"done.json"} == names
    for name in sorted(names):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    return names


@pytest.fixture(scope="module")
def whole(paired, tmp_path_factory):
    """Trainings that nobody disturbs, each done once."""

    @cache
    def train(recipe, settings):
        run_dir = tmp_path_factory.mktemp("whole") / "run"
        return run_dir, learn.train(paired, recipe, settings=settings, run_dir=run_dir)

    return train


def cases(shown, others):
    """The first in every run of the suite, the others in soaks."""
    return [*shown, *(pytest.param(*case, marks=pytest.mark.soak) for case in others)]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    recipe = tmp_path_factory.mktemp("recipe") / "staged.toml"
    recipe.write_text(STAGED)
    return recipe


@pytest.mark.parametrize(
    ("after", "memory"),
    cases(
        [(1, "8GiB"), (8, "8GiB"), (18, "8GiB"), (5, "20kB")],
        [(5, "8GiB"), (13, "8GiB"), (23, "8GiB"), (18, "20kB")],
    ),
)
def test_a_killed_training_goes_on_bit_for_bit(
    paired, whole, staged, tmp_path, monkeypatch, after, memory
):
    """Killed after any step, of any stage and round, with a checkpoint some steps before."""
    how = ("optimiser.bucket=2", f"data.memory={memory}")
    undisturbed, done = whole(staged, how)
    parts = tmp_path / "parts"
    dying(monkeypatch, after)
    with pytest.raises(Killed):
        learn.train(paired, staged, settings=how, run_dir=parts)
    assert not (parts / "done.json").exists()
    monkeypatch.undo()
    assert (parts / "checkpoint.safetensors").exists() == (after > 3)
    again = learn.train(paired, staged, settings=how, run_dir=parts, resume=True)
    same_files(undisturbed, parts)
    assert replace(again, run="", seconds=0.0) == replace(done, run="", seconds=0.0)


MEMORIES = {
    "avid": ("optimiser.epochs=3",),
    "cma": ("stages.avid.optimiser.epochs=2", "stages.agreement.optimiser.epochs=2"),
    "sscl": ("optimiser.epochs=1",),
    "xdc": ("optimiser.epochs=1", "stages.clusters.rounds=3", "objective.clusters=8"),
    "prototypes": ("optimiser.epochs=3", "objective.clusters=8"),
}


KILLS = set(itertools.product(MEMORIES, (4, 8, 11)))
SHOWN = {("avid", 4), ("cma", 8), ("sscl", 8), ("xdc", 11), ("prototypes", 8)}


@pytest.mark.parametrize(("recipe", "after"), cases(sorted(SHOWN), sorted(KILLS - SHOWN)))
def test_memories_stages_and_rounds_survive_a_kill(
    paired, whole, tmp_path, monkeypatch, recipe, after
):
    settings = ("optimiser.batch_size=100", *MEMORIES[recipe])
    undisturbed, _ = whole(recipe, settings)
    parts = tmp_path / "parts"
    dying(monkeypatch, after)
    with pytest.raises(Killed):
        learn.train(paired, recipe, settings=settings, run_dir=parts)
    monkeypatch.undo()
    learn.train(paired, recipe, settings=settings, run_dir=parts, resume=True)
    names = same_files(undisturbed, parts)
    assert ("bank.safetensors" in names) == (recipe in ("avid", "cma", "sscl"))


def test_a_memory_survives_sigkill(paired, tmp_path):
    """A real process, killed where it stands once it has written a checkpoint."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = ("optimiser.batch_size=100", "optimiser.epochs=8")
    learn.train(paired, "sscl", settings=settings, run_dir=whole)
    code = (
        "import sys, torch, learn; from learn.training import unseen; "
        f"unseen.EPISODES = {unseen.EPISODES}; torch.set_num_threads(int(sys.argv[4])); "
        "learn.train(sys.argv[1], 'sscl', settings=sys.argv[3].split(','), run_dir=sys.argv[2], "
        "checkpoint_seconds=0.0)"
    )
    words = [str(paired), str(parts), ",".join(settings), str(torch.get_num_threads())]
    child = subprocess.Popen([sys.executable, "-c", code, *words], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 240
    metrics, far = parts / "metrics.jsonl", b'"event": "epoch"'
    while not metrics.exists() or far not in metrics.read_bytes():
        assert time.monotonic() < deadline, "the training is too slow to be killed"
        assert child.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    assert (parts / "checkpoint.safetensors").exists()
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (parts / "done.json").exists()
    learn.train(paired, "sscl", settings=settings, run_dir=parts, resume=True)
    assert "bank.safetensors" in same_files(whole, parts)


def test_only_the_parts_named_learn(paired, tmp_path):
    recipe = tmp_path / "staged.toml"
    recipe.write_text(STAGED)
    learn.train(paired, recipe, run_dir=tmp_path / "both")
    learn.train(
        paired, recipe, run_dir=tmp_path / "less",
        settings=("stages.name.optimiser.learning_rate=1e-9",),
    )  # fmt: skip
    both, less = (load_file(tmp_path / r / "weights.safetensors") for r in ("both", "less"))
    moved = {key.split(".")[0] for key in both if not torch.allclose(both[key], less[key])}
    assert moved == {"audio", "objective"}
    rows = [json.loads(x) for x in (tmp_path / "both/metrics.jsonl").read_text().splitlines()]
    rounds = [(r["stage"], r["round"]) for r in rows if r["event"] == "round"]
    assert rounds == [("align", 0), ("align", 1), ("name", 0)]
    rates = [r["learning_rate"] for r in rows if r["event"] == "step" and r["stage"] == "align"]
    assert rates[0] == 1e-3 == rates[8]
    assert rates[:8] == sorted(rates[:8], reverse=True)
    bad = (f"stages.name.train={name}" for name in ("visual,head", "objective"))
    with pytest.raises(ConfigError, match=r"no part 'head' to train; there are visual, audio"):
        learn.train(paired, recipe, run_dir=tmp_path / "x", settings=(next(bad),))


def test_resuming_another_training_is_refused(paired, filled, quick, tmp_path):
    for store_path, settings, difference in (
        (paired, (*QUICK, "optimiser.epochs=4"), "recipe"),
        (filled, QUICK, "store_id"),
    ):
        with pytest.raises(InputError, match=f"begun with another {difference}; .* new directory"):
            learn.train(store_path, "infonce", settings=settings, run_dir=quick[0], resume=True)
    done = learn.train(paired, "infonce", settings=QUICK, run_dir=quick[0], resume=True)
    assert done == quick[1]  # nothing is left to do
    new = learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "new", resume=True)
    assert new.loss == done.loss


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_step(paired, tmp_path):
    settings = (*QUICK, "optimiser.learning_rate=1e30", "optimiser.warmup_epochs=0")
    run = tmp_path / "r"
    with pytest.raises(InputError, match=r"step \d+, in epoch \d: .*not finite \((nan|inf)\)"):
        learn.train(paired, "infonce", settings=settings, run_dir=run, checkpoint_seconds=0.0)
    assert not (run / "done.json").exists()
    if (run / "checkpoint.safetensors").exists():
        saved = load_file(run / "checkpoint.safetensors")
        assert all(x.isfinite().all() for x in saved.values() if x.is_floating_point())


@pytest.mark.parametrize(("after", "every"), [(5, 0.0), (7, 1e9)])
def test_weights_that_are_no_numbers_are_never_kept(paired, tmp_path, monkeypatch, after, every):
    """A finite loss with an infinite slope: the step is named, what was kept before it stays."""
    step = torch.optim.AdamW.step
    taken = [0]

    def poisoned(self, *args, **kwargs):
        done = step(self, *args, **kwargs)
        taken[0] += 1
        if taken[0] == after:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("inf"))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", poisoned)
    settings = (*QUICK, "optimiser.batch_size=58", "optimiser.epochs=1")  # 7 steps
    run = tmp_path / "r"
    with pytest.raises(InputError, match=rf"step {after}, in epoch 0: .*not finite \(inf\)"):
        learn.train(paired, "infonce", settings=settings, run_dir=run, checkpoint_seconds=every)
    assert not (run / "done.json").exists()
    if every == 0.0:
        saved = load_file(run / "checkpoint.safetensors")
        assert all(x.isfinite().all() for x in saved.values() if x.is_floating_point())


@pytest.mark.parametrize("after", [1, 4, 7, 9])
def test_a_training_that_is_stopped_goes_on_to_the_same_bytes(paired, tmp_path, after):
    settings = (*QUICK, "optimiser.epochs=2", "optimiser.batch_size=100")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    learn.train(paired, "infonce", settings=settings, run_dir=whole)
    asked = itertools.count(1)
    given = {"settings": settings, "run_dir": parts}
    if after <= 8:
        with pytest.raises(KeyboardInterrupt):
            learn.train(paired, "infonce", **given, stop=lambda: next(asked) >= after)
        assert (parts / "checkpoint.safetensors").is_file()
        assert not (parts / "done.json").exists()
    learn.train(paired, "infonce", **given, resume=True)
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(paired, tmp_path):
    run = tmp_path / "run"
    words = [str(paired), "--recipe", "infonce", "--set", "optimiser.epochs=100000", "-o", str(run)]
    code = "import sys, cli; sys.argv[0] = 'learn'; cli.learn_main()"
    training = subprocess.Popen(
        [sys.executable, "-c", code, "train", *words, "--set", "optimiser.patience=0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training.send_signal(signal.SIGINT)
    _, talk = training.communicate(timeout=120)
    assert training.returncode == 130
    assert "go on with the same command and --resume" in talk.splitlines()[-1]
    assert "Traceback" not in talk
    assert (run / "checkpoint.safetensors").is_file()


def test_a_damaged_checkpoint_says_what_to_do(paired, tmp_path, monkeypatch):
    monkeypatch.setattr("learn.training.runs.finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn.train(
            paired, "infonce", settings=QUICK, run_dir=tmp_path / "r", checkpoint_seconds=0.0
        )
    (tmp_path / "r" / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"damaged.*delete it"):
        learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "r", resume=True)


def test_a_device_that_is_not_there_is_refused(paired, tmp_path):
    with pytest.raises(ConfigError, match="there are auto, cpu, cuda"):
        learn.train(paired, "infonce", run_dir=tmp_path / "r", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no GPU"):
            learn.train(paired, "infonce", run_dir=tmp_path / "r", device="cuda")


def test_scalars_reach_tensorboard(paired, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = learn.train(
        paired, "infonce", settings=QUICK, run_dir=tmp_path / "r", tensorboard=tmp_path / "tb"
    )
    drawn = EventAccumulator(str(tmp_path / "tb"))
    drawn.Reload()
    losses = [event.value for event in drawn.Scalars("main/epoch/val_loss")]
    assert losses[done.best_epoch] == pytest.approx(done.val_loss)


def test_what_a_kill_left_of_a_file_goes(paired, tmp_path, monkeypatch):
    """Kills while a checkpoint is written leave the writer's own file behind."""
    dying(monkeypatch, 2)
    with pytest.raises(Killed):
        learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "r")
    monkeypatch.undo()
    (tmp_path / "r" / ".checkpoint.safetensors-0a1b2c3d4e5f.unfinished").write_bytes(b"half")
    learn.train(paired, "infonce", settings=QUICK, run_dir=tmp_path / "r", resume=True)
    assert [path.name for path in (tmp_path / "r").glob(".*")] == [".lock"]


@pytest.mark.parametrize(
    "settings", [("stages.main.train=nobody",), ("objective.name=cjme",)], ids=["part", "names"]
)
def test_a_training_that_is_refused_leaves_nothing_behind(paired, tmp_path, settings):
    recipe = tmp_path / "r.toml"
    recipe.write_text(STAGED.replace('"align"', '"main"'))
    with pytest.raises((ConfigError, InputError)):
        learn.train(paired, recipe, settings=settings, run_dir=tmp_path / "r")
    assert not (tmp_path / "r").exists()
