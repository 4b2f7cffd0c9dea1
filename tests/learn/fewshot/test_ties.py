"""What equal scores are worth: chance, wherever clips and classes stand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from learn.data.clips import BASE, QUERY, SHOT, Clips
from learn.fewshot.heads import Context
from learn.fewshot.metrics import Predictor, measure, ranked
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import accuracies, by_vectors
from learn.fewshot.tasks import FAMILY
from store import plugins

DIM = 37  # a size at which equal queries get scores that differ in their last place
HEADS = [
    name
    for name in plugins.names("learn.fewshot.heads")
    if not hasattr(plugins.build("learn.fewshot.heads", name), "extra_shots")
]


def clips(classes: int = 8, each: int = 20, **more) -> Clips:
    ids = tuple(f"{i:04d}" for i in range(classes * each))
    class_ids = np.repeat(np.arange(classes, dtype=np.int32), each)
    names = tuple(f"c{c}" for c in range(classes))
    return Clips(ids=ids, class_ids=class_ids, classes=names, groups=None, split="all", **more)


def predictor(x, head: str = "prototypes") -> Predictor:
    zero = torch.zeros(DIM)
    return Predictor(
        head=plugins.build("learn.fewshot.heads", head),
        pair=Pair(support=x, query=x, modality_dims=(DIM,)),
        context=Context(modality_dims=(DIM,), support_mean=zero, query_mean=zero, origin=x.mean(0)),
    )


def alike(count: int) -> torch.Tensor:
    return torch.randn(DIM, generator=torch.Generator().manual_seed(0)).expand(count, DIM).clone()


@pytest.mark.parametrize("task", ["n_way_k_shot", "any_way_any_shot:max_ways=5", "imbalanced"])
@pytest.mark.parametrize("name", ["prototypes", "nearest:k=3", "ridge"])
def test_clips_that_are_all_alike_are_told_apart_by_chance(task, name):
    every = clips()
    if "any_way" in task:
        task += ",uneven=false"
    spec = plugins.parse_spec(task)
    settings = dict(spec.settings) | {"episodes": 400}
    settings |= {} if "any_way" in task else {"queries": 5, "shots": 2}
    drawn = plugins.build(FAMILY, plugins.Spec(spec.name, settings))(every, seed=0)
    asked = predictor(alike(len(every)), name)
    found = accuracies(drawn, by_vectors(asked.head, asked.pair, asked.context)(drawn))
    assert found.mean() == pytest.approx(0.2, abs=0.02)


def test_base_and_new_classes_that_are_all_alike_are_named_equally_often():
    roles = np.where(np.arange(160) < 80, SHOT | QUERY | BASE, SHOT | QUERY).astype(np.int32)
    every = clips(roles=roles)
    task = "generalised:ways=2,base_ways=3,queries=5,base_shots=1,episodes=400"
    drawn = plugins.build(FAMILY, task)(every, seed=0)
    parts = measure(every, drawn, predictor(alike(160))).parts
    assert parts["seen"] == pytest.approx(0.2, abs=0.02)
    assert parts["unseen"] == pytest.approx(0.2, abs=0.02)


def test_labels_of_clips_that_are_all_alike_are_ranked_by_their_share():
    targets = np.eye(8, dtype=bool)[np.repeat(np.arange(8), 20)]
    every = clips(targets=targets)
    task = plugins.build(FAMILY, "multi_label:ways=4,queries=5,shots=2,episodes=20")
    drawn = task(every, seed=0)
    for head in HEADS:
        if head == "pt_map":  # refuses what may be unbalanced
            continue
        found = measure(every, drawn, predictor(alike(160), head)).of_episodes
        assert found.mean() == pytest.approx(0.25, abs=1e-9), head


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_average_precision_with_equal_scores_is_scikit_learns(precision):
    rng = np.random.default_rng(0)
    scores = rng.random((4, 30, 3)).round(1)
    truth = rng.random(scores.shape) < 0.4
    noise = rng.integers(-2, 3, scores.shape) * np.finfo(precision).eps * scores
    found = ranked((scores + noise).astype(precision), truth)
    for e in range(4):
        for n in range(3):
            expected = average_precision_score(truth[e, :, n], scores[e, :, n])
            assert found[e, n] == pytest.approx(expected)
