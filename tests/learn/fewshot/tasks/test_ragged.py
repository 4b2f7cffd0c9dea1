"""Episodes of differing sizes: how they are drawn, and that scoring them is a loop over them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

import learn
from learn.commands.tables import episodes_table
from learn.evaluation.results import load_result
from learn.fewshot import episode_files
from learn.fewshot.heads import Context
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import accuracies, scorer
from learn.fewshot.tasks import any_way_any_shot, imbalanced
from store import plugins
from store.errors import ConfigError, NotEnoughClips


@pytest.fixture
def clips(make_clips):
    """Classes of very different sizes, in groups of two."""
    sizes = [60, 8, 30, 12, 20, 9]
    return make_clips(sizes, np.arange(sum(sizes)) // 2)


def any_way(clips, seed=0, **asked):
    config = any_way_any_shot.Config(**{"min_ways": 3, "episodes": 400, **asked})
    return any_way_any_shot.build(config)(clips, seed=seed)


def unbalanced(clips, seed=0, **asked):
    config = imbalanced.Config(**{"ways": 3, "queries": 4, "episodes": 400, **asked})
    return imbalanced.build(config)(clips, seed=seed)


def test_ways_and_shots_come_as_meta_dataset_has_them(clips):
    drawn = any_way(clips, episodes=1500)
    ways = (drawn.classes >= 0).sum(1)
    assert np.bincount(ways, minlength=7)[3:].min() > 1500 / 4 * 0.8
    shots, queries = ((part >= 0).sum(2) for part in (drawn.support, drawn.asked))
    sizes = np.bincount(clips.class_ids)
    for row, k, q in zip(drawn.classes, shots, queries, strict=True):
        present = row >= 0
        smallest = sizes[row[present]].min()
        assert set(q[present]) == {min(10, smallest // 2)}
        assert k[present].min() >= 1
        assert (k[present] + q[present] <= sizes[row[present]]).all()
        assert not k[~present].any()
    of_large = shots[drawn.classes == 0].mean()
    of_small = shots[drawn.classes == 1].mean()
    assert of_large > 3 * of_small  # in proportion to what a class has


def test_even_shots_are_those_of_the_poorest(clips):
    drawn = any_way(clips, uneven=False)
    shots = (drawn.support >= 0).sum(2)
    assert all(len(set(k[row >= 0])) == 1 for row, k in zip(drawn.classes, shots, strict=True))
    assert len(set(shots.max(1))) > 3
    assert all(batch.mask is None for batch in drawn.batches())


@pytest.mark.parametrize("alpha", [0.3, 2.0, 50.0])
def test_queries_are_spread_as_a_dirichlet_distribution_says(make_clips, alpha):
    clips = make_clips([300] * 4)
    drawn = unbalanced(clips, alpha=alpha, queries=60, episodes=3000)
    counts = (drawn.asked >= 0).sum(2)
    assert (counts.sum(1) == 180).all()
    share = counts / 180
    # Of a Dirichlet distribution of three equal parameters.
    assert share.mean() == pytest.approx(1 / 3)
    assert share.var() == pytest.approx((2 / 9) / (3 * alpha + 1), rel=0.06)
    assert not drawn.balanced


def test_no_class_is_asked_for_more_than_it_has(make_clips, monkeypatch):
    clips = make_clips([6, 6, 40], [*range(6), *range(6), *range(40)])
    for redraws in (1, 20):
        monkeypatch.setattr(imbalanced, "REDRAWS", redraws)
        drawn = unbalanced(clips, alpha=0.5, shots=2)
        counts = (drawn.asked >= 0).sum(2)
        assert (counts.sum(1) == 12).all()
        assert counts[drawn.classes < 2].max() <= 4


def test_a_loop_over_uneven_episodes_gives_the_same(clips):
    drawn = any_way(clips, episodes=60)
    rng = torch.Generator().manual_seed(0)
    apart = torch.from_numpy(clips.class_ids / 2).float()[:, None]
    x = torch.randn(len(clips), 6, generator=rng) + apart
    pair, context = Pair(support=x, query=x, modality_dims=(6,)), Context(modality_dims=(6,))
    for spec in ("prototypes", "prototypes:metric=cl2n,centre=support", "nearest", "ridge"):
        head = plugins.build("learn.fewshot.heads", spec)
        results = accuracies(drawn, scorer(head, pair, context, queries=10**6)(drawn))
        for e, (row, support, query) in enumerate(
            zip(drawn.classes, drawn.support, drawn.asked, strict=True)
        ):
            shots = [x[s[s >= 0].astype(np.int64)] for s in support[row >= 0]]
            centre = torch.cat(shots).mean(0) if "cl2n" in spec else torch.zeros(6)
            map_ = torch.nn.functional.normalize if "cl2n" in spec else lambda v: v
            shots = [map_(s - centre) for s in shots]
            labels = np.repeat(np.arange(len(shots)), [len(s) for s in shots])
            line = Ridge(alpha=1.0).fit(torch.cat(shots).double(), np.eye(len(shots))[labels])
            correct = []
            for n, of_class in enumerate(query[row >= 0]):
                for one in map_(x[of_class[of_class >= 0].astype(np.int64)] - centre):
                    if spec == "nearest":
                        far = [(s - one).square().sum(1).min() for s in shots]
                    elif spec == "ridge":
                        far = list(-torch.from_numpy(line.predict(one[None].double())[0]))
                    else:
                        far = [(s.mean(0) - one).square().sum() for s in shots]
                    correct.append(int(torch.stack(far).argmin()) == n)
            assert results[e] == pytest.approx(np.mean(correct)), (spec, e)


def test_heads_that_need_even_shots_or_balance_say_so(filled):
    asked = {"split": "all", "support": ("v",), "episodes": 20}
    with pytest.raises(ConfigError, match=r"logistic needs equally many shots.*uneven=false"):
        learn.run_episodes(filled, **asked, task="any_way_any_shot", heads=("logistic",))
    with pytest.raises(ConfigError, match="pt_map needs equally many queries"):
        learn.run_episodes(filled, **asked, task="imbalanced", heads=("pt_map",))
    even = learn.run_episodes(
        filled,
        **asked,
        task="any_way_any_shot:uneven=false,max_ways=6,max_shots=4",
        heads=("logistic", "pt_map"),
    )
    assert all(row.accuracy > 0.3 for row in even.results)


@pytest.mark.parametrize("task", ["any_way_any_shot", "imbalanced:alpha=1"])
def test_from_a_store_to_the_table(filled, task, tmp_path, capsys):
    asked = {"split": "all", "support": ("v",), "episodes": 50, "shots": (1, 3), "queries": 5}
    file = tmp_path / "e"
    results = learn.run_episodes(filled, **asked, task=task, save_episodes=file)
    assert results.sampling["task"] == task.partition(":")[0]
    assert len(results.draws) == (1 if "any" in task else 2)
    for row, draw in zip(results.results, results.draws, strict=True):
        asked_of = sum(one.asked for one in row.tally.classes)
        assert asked_of == (draw.query >= 0).sum()
        weight = (draw.query >= 0).sum(1)
        correct = sum(one.right for one in row.tally.classes)
        assert correct == pytest.approx((row.of_episodes * weight).sum())
    again = learn.run_episodes(filled, **asked, episodes_file=file)
    assert [r.accuracy for r in again.results] == [r.accuracy for r in results.results]
    assert again.sampling == results.sampling
    if "imbalanced" in task:
        worth = learn.run_episodes(filled, **asked, task=task, inflation=True).inflation
        assert len(worth) == 2
    results.save(tmp_path / "run")
    kept = load_result(tmp_path / "run")
    assert [one.mean() for one in kept.of_episodes] == [r.accuracy for r in results.results]
    episodes_table(results.to_dict())
    shown = capsys.readouterr().out
    assert task.partition(":")[0] in shown
    assert ("≤" in shown) == ("any" in task)


def test_too_small_classes_are_named(make_clips):
    clips = make_clips([30, 3, 2, 30], np.arange(65) // 4)
    with pytest.raises(NotEnoughClips, match=r"class1: 3 in 2 groups.*Lower"):
        unbalanced(clips, shots=3)
    with pytest.raises(NotEnoughClips, match=r"min_ways"):
        any_way(make_clips([30, 1, 1, 30]))


def test_the_same_on_any_machine(clips, tmp_path):
    """Digests that never change: numpy's streams and our use of them."""
    drawn = [any_way(clips, seed=3, episodes=50), unbalanced(clips, seed=3, episodes=50)]
    assert [one.sha256[:16] for one in drawn] == GOLDEN
    episode_files.save(tmp_path / "e", clips, drawn)
    _, again = episode_files.load(tmp_path / "e", clips)
    assert [one.sha256 for one in again] == [one.sha256 for one in drawn]


GOLDEN = ["05a6ac74d32eafe7", "7f46d77002433939"]
