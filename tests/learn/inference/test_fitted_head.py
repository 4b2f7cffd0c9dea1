"""Heads on labelled clips: as in episodes on the same shots, with honest confidence."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import learn
import store
from learn.fewshot import episode_files
from learn.fewshot.fusions import FAMILY, equal
from learn.inference.fitted_head import FittedHead, HeadClassifier, Judge, Labelled
from store import plugins
from store.errors import ConfigError, InputError
from tests.learn.inference.tables import read, write

DEFAULT = "ridge:power=0.5,centre=support,unit=true"
HEADS = (DEFAULT, "prototypes", "prototypes:metric=cosine", "nearest", "logistic", "gda:unit=true")
MEMORY = 1 << 28


def as_scored(fs, tmp_path, ways=8, **asked):
    """The shots of an episode of all classes as a support, and the answers to its queries."""
    result = learn.run_episodes(
        fs, split="test", ways=ways, queries=4, episodes=3,
        save_episodes=tmp_path / "e.safetensors",
        **{"shots": (3,), "groups": "mixed", **asked},
    )  # fmt: skip
    clips, (drawn,) = episode_files.load(tmp_path / "e.safetensors", result.clips)
    names = np.array(clips.classes)
    found = []
    for e in range(len(drawn)):
        of = names[drawn.classes[e]]
        shots = [(clips.ids[i], of[n]) for n in range(ways) for i in drawn.support[e][n]]
        queries = [
            (clips.ids[i], of[n]) for i, n in zip(drawn.query[e], drawn.targets, strict=True)
        ]
        found.append((shots, queries))
    return result.results, found


@pytest.mark.parametrize("mode", ["v", "av"])
@pytest.mark.parametrize("head", HEADS)
def test_the_same_answers_as_in_episodes(filled, tmp_path, head, mode):
    rows, episodes = as_scored(filled, tmp_path, heads=(head,), support=(mode,))
    (row,) = rows
    for e, (shots, queries) in enumerate(episodes):
        support = write(tmp_path / f"s{e}.csv", ["clip_id", "label"], shots)
        asked = write(tmp_path / f"q{e}.csv", ["clip_id"], [[clip] for clip, _ in queries])
        result = learn.predict(
            filled, support=support, query=asked, output=tmp_path / f"o{e}.csv", head=head,
            mode=mode, group="none",
        )  # fmt: skip
        answers = {r["clip_id"]: r["label"] for r in read(tmp_path / f"o{e}.csv")}
        right = np.mean([answers[clip] == label for clip, label in queries])
        assert right == pytest.approx(row.of_episodes[e]), (head, mode, e)
        if mode == "av":
            (weights,) = result.labels[0].weights.values()
            assert sum(weights.values()) == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def with_others(tmp_path_factory):
    """Six test classes, eighteen in train and val that nobody asks about, and a run of theirs."""
    path = tmp_path_factory.mktemp("others") / "store"
    store.testing.fill(path, clips=480, classes=24, rows=2, dim=16, separation=2.0)
    run = path.parent / "run"
    learn.train(path, "whiten", run_dir=run)
    return path, run


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("shots", [1, 4])
def test_other_classes_tell_as_much_as_in_episodes(with_others, tmp_path, shots, projected):
    fs, run = with_others
    asked = {"projections": (run,)} if projected else {}
    (row,), episodes = as_scored(
        fs, tmp_path, ways=6, shots=(shots,), groups="within", support=("av",), **asked
    )
    weights = []
    for e, (support, queries) in enumerate(episodes):
        answered = answers(fs, tmp_path, e, support, queries, run if projected else None)
        right = np.mean([answered[0][clip] == label for clip, label in queries])
        assert right == pytest.approx(row.of_episodes[e])
        (origin,) = answered[1].prior.values()
        assert origin == row.prior["from"]
        assert "other classes" in origin
        weights.append(list(next(iter(answered[1].weights.values())).values()))
    found = [w["mean"] for w in row.weights.values()]
    np.testing.assert_allclose(np.mean(weights, axis=0), found, atol=1e-5)
    assert found != pytest.approx([0.5, 0.5], abs=1e-3)


def answers(fs, tmp_path, number, shots, queries, run=None, **asked):
    """What `predict` says of an episode's queries, and its summary."""
    support = write(tmp_path / f"s{number}.csv", ["clip_id", "label"], shots)
    query = write(tmp_path / f"q{number}.csv", ["clip_id"], [[clip] for clip, _ in queries])
    output = tmp_path / f"o{number}.csv"
    result = learn.predict(
        fs, support=support, query=query, output=output, mode="av", projection=run, **asked
    )
    return {r["clip_id"]: r["label"] for r in read(output)}, result.labels[0]


def test_labels_of_clips_asked_about_say_nothing(with_others, tmp_path):
    """The store's manifest with other labels for what is asked gives the same weights; with other
    labels for the rest it does not."""
    fs, _ = with_others
    _, ((shots, queries), *_) = as_scored(fs, tmp_path, ways=6, shots=(1,), groups="within")
    table = store.open(fs).manifest()
    columns = [table.paths, table.clip_ids, table.column("label"), table.column("split")]
    first = sorted(set(table.column("label")))[0]
    found = []
    for wrong in (None, "test", "train"):
        rows = [[p, c, first if s == wrong else n, s] for p, c, n, s in zip(*columns, strict=True)]
        path = write(tmp_path / f"{wrong}.csv", ["path", "clip_id", "label", "split"], rows)
        _, summary = answers(
            fs, tmp_path, f"of-{wrong}", shots, queries, manifest=path, group="none"
        )
        found.append(summary.weights)
    assert found[0] == found[1]
    assert found[0] != found[2]
    with pytest.raises(InputError, match="no column 'mood'"):
        learn.predict(
            fs, support=write(tmp_path / "m.csv", ["clip_id", "mood"], shots), labels=("mood",),
            output=tmp_path / "m-out.csv", manifest=path,
        )  # fmt: skip
    assert not (tmp_path / "m-out.csv").exists()


def made(classes=5, each=6, seed=0, noise=1.0):
    rng = torch.Generator().manual_seed(seed)
    ids = torch.arange(classes).repeat_interleave(each)
    vectors = {
        name: torch.randn(classes, size, generator=rng)[ids]
        + noise * torch.randn(len(ids), size, generator=rng)
        for name, size in (("visual", 12), ("audio", 7))
    }
    there = torch.ones(len(ids), dtype=torch.bool)
    return Labelled(vectors=vectors, present=dict.fromkeys(vectors, there), class_ids=ids)


def weighted(head=DEFAULT, prior=None):
    built = plugins.build("learn.fewshot.heads", head)
    return Judge(head=built, fusion=plugins.build(FAMILY, "weighted"), prior=prior or equal(2))


def test_what_a_labelled_clip_lacks_says_nothing():
    """Noise in place of what is lacking changes no score, and sound of half the clips helps."""
    shots = made()
    lacking = torch.arange(30) % 2 == 1
    noisy = torch.where(lacking[:, None], 9 * torch.ones(30, 7), shots.vectors["audio"])
    none = torch.where(lacking[:, None], 0, shots.vectors["audio"])
    present = {"visual": ~lacking | lacking, "audio": ~lacking}
    asked = {name: x[:10] for name, x in made(seed=1).vectors.items()}
    scores = [
        FittedHead(
            weighted(),
            replace(shots, vectors={**shots.vectors, "audio": x}, present=present), MEMORY,
        ).scores(asked)
        for x in (noisy, none)
    ]  # fmt: skip
    torch.testing.assert_close(*scores)


def test_classes_of_other_numbers_of_clips_are_as_if_padded():
    """A clip left out of a class is the same as one that was never named."""
    shots = made()
    kept = torch.tensor([i for i in range(30) if i not in (7, 20, 21)])
    for head in (DEFAULT, "prototypes"):
        fitted = FittedHead(weighted(head), shots.keep(kept), MEMORY)
        asked = {name: x[kept[:4]] for name, x in shots.vectors.items()}
        assert fitted.scores(asked).argmax(1).tolist() == [0, 0, 0, 0]
    with pytest.raises(ConfigError, match="equally many labelled clips"):
        FittedHead(weighted("gda:unit=true"), shots.keep(kept), MEMORY)
    with pytest.raises(InputError, match="side by side"):
        FittedHead(weighted(), shots, 1000)


@pytest.mark.parametrize("each", [2, 5])
def test_confidence_is_honest(each):
    """Over many supports, clips that answers are sure of to p are right with p."""
    sure, right = [], []
    for seed in range(60):
        clips = made(each=each + 6, seed=seed, noise=1.6)
        shots = torch.nonzero(torch.arange(5 * (each + 6)) % (each + 6) < each)[:, 0]
        rest = torch.nonzero(torch.arange(5 * (each + 6)) % (each + 6) >= each)[:, 0]
        fitted = HeadClassifier(weighted(), clips.keep(shots), MEMORY)
        found = fitted.predict({n: x[rest] for n, x in clips.vectors.items()}, 1)
        sure.append(found.probabilities[:, 0])
        right.append((found.class_ids[:, 0] == clips.class_ids[rest]).double())
    p, correct = torch.cat(sure), torch.cat(right)
    bins = (p * 15).long().clamp(max=14)
    error = sum(
        float((p[bins == b].mean() - correct[bins == b].mean()).abs() * (bins == b).double().mean())
        for b in range(15)
        if (bins == b).any()
    )
    assert 0.3 < correct.mean() < 0.95
    assert error < (0.06 if each == 5 else 0.15)


def test_heads_that_cannot_be_asked_of_one_clip_are_refused(filled, asked, tmp_path):
    support, _ = asked
    for head, why in (("tim", "judges all clips"), ("cross_modal", "more than labelled clips")):
        with pytest.raises(ConfigError, match=why):
            learn.predict(filled, support=support, output=tmp_path / "o.csv", head=head)
    with pytest.raises(ConfigError, match="name one"):
        learn.predict(
            filled, support=support, output=tmp_path / "o.csv", head="ridge", by="nearest"
        )
    with pytest.raises(ConfigError, match="learned needs"):
        learn.predict(filled, support=support, output=tmp_path / "o.csv", fusion="learned")
    assert not (tmp_path / "o.csv").exists()


def test_weights_stand_in_the_answers(filled, asked, tmp_path):
    support, _ = asked
    learn.predict(filled, support=support, output=tmp_path / "o.csv")
    names = {f: store.open(filled)[f].modality for f in store.open(filled).features}
    rows = read(tmp_path / "o.csv")
    by_mode = {mode: [r for r in rows if r["mode"] == mode] for mode in ("av", "v", "")}
    for row in by_mode["av"]:
        weights = [float(row[f"label_weight_{name}"]) for name in names]
        assert sum(weights) == pytest.approx(1, abs=1e-3)
        assert 0 < weights[0] < 1
    for row in by_mode["v"]:
        assert {m: row[f"label_weight_{f}"] for f, m in names.items()} == {
            "visual": "1.0000", "audio": "0.0000",
        }  # fmt: skip
    assert {row[f"label_weight_{name}"] for row in by_mode[""] for name in names} == {""}


def test_clips_without_sound_do_not_say_that_sight_is_better():
    """Two senses as good as each other keep their weights when some labelled clips are silent."""
    shots = made(classes=12, each=5, noise=2.0)
    lacking = torch.arange(60) % 5 == 4
    present = {"visual": torch.ones(60, dtype=torch.bool), "audio": ~lacking}
    sound = torch.where(lacking[:, None], 0, shots.vectors["audio"])
    silent = replace(shots, vectors={**shots.vectors, "audio": sound}, present=present)
    complete = shots.keep(torch.nonzero(~lacking)[:, 0])
    weights = [FittedHead(weighted(), x, MEMORY).weights[0] for x in (silent, complete)]
    assert weights[0] == pytest.approx(weights[1], abs=0.15)


def test_confidence_is_honest_among_many_classes():
    """Most clips are told wrong, and confidence says so, neither more nor far less."""
    clips = made(classes=150, each=15, noise=1.6)
    shots = torch.arange(150 * 15) % 15 < 5
    fitted = HeadClassifier(weighted(), clips.keep(torch.nonzero(shots)[:, 0]), MEMORY)
    rest = torch.nonzero(~shots)[:, 0]
    found = fitted.predict({n: x[rest] for n, x in clips.vectors.items()}, 1)
    right = float((found.class_ids[:, 0] == clips.class_ids[rest]).double().mean())
    assert 0.05 < right < 0.3
    assert 0.6 * right < float(found.probabilities[:, 0].mean()) < 1.3 * right
