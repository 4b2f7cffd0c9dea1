"""On the same saved episodes every head answers as its looped twin does, clip by clip.

The loops see what anybody can read: the episodes file and the store. They judge in double
precision, heads answer in single precision; not one answer may differ. A new head needs a twin,
`tests/learn/twins/NAME.py`, with `answers(support, query)` of one episode at the head's defaults.
"""

import json
from functools import cache
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import KNeighborsClassifier

import learn
import store
from learn.fewshot.heads import Context, ExtraShotsHead
from store import plugins

EPISODES, JUDGED = 60, 2  # so many that heads look products up in a table; loops are slow
SHOTS = (1, 5)
MODES = {"v": ("visual",), "a": ("audio",), "av": ("visual", "audio")}


@pytest.fixture(scope="module")
def file(hard, tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "episodes.safetensors"
    learn.run_episodes(hard, ways=4, queries=5, shots=SHOTS, episodes=EPISODES, save_episodes=path)
    return path


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Classes that overlap: an answer that is merely plausible is often wrong."""
    path = tmp_path_factory.mktemp("parity") / "store"
    store.testing.fill(path, clips=480, rows=4, dim=24, classes=8, separation=2.0, disjoint=False)
    return path


def episodes(file):
    """Clip ids, and of each number of shots the places of all clips, E N C."""
    with safe_open(file, framework="numpy") as opened:
        ids = json.loads(opened.metadata()["clips"])
        draws = json.loads(opened.metadata()["draws"])
        return ids, {d["shots"]: opened.get_tensor(f"{i}.indices") for i, d in enumerate(draws)}


@cache
def vectors(path, ids, mode):
    """The mean of each clip's rows; of two modalities each at length 1, joined."""
    fs, parts = store.open(path), []
    for modality in MODES[mode]:
        (feature,) = (fs[name] for name in fs.features if fs[name].modality == modality)
        rows, offsets = feature.read(ids)
        rows = rows.astype(np.float64)
        mean = np.stack([rows[a:b].mean(0) for a, b in pairwise(offsets)])
        if len(MODES[mode]) > 1:
            mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        parts.append(mean)
    return torch.from_numpy(np.concatenate(parts, axis=1)), tuple(p.shape[1] for p in parts)


def hold(head, judge, path, file, modes):
    """Every answer of the head is the judge's, and so is every accuracy that the call gives."""
    ids, drawn = episodes(file)
    results = learn.run_episodes(
        path,
        episodes_file=file,
        heads=(head,),
        support=modes,
        fusions=("early",) if "av" in modes else (),
    )
    accuracies = {(r.support, r.shots): r.of_episodes for r in results.results}
    assert len(accuracies) == len(modes) * len(SHOTS)
    built = plugins.build("learn.fewshot.heads", head)
    for (mode, shots), accuracy in accuracies.items():
        x, modality_dims = vectors(path, tuple(ids), mode)
        for indices, share in zip(drawn[shots][:JUDGED], accuracy[:JUDGED], strict=True):
            ways = len(indices)
            support = x[torch.from_numpy(indices[:, :shots]).long()]
            query = x[torch.from_numpy(indices[:, shots:]).long()].flatten(0, 1)
            expected = np.asarray(judge(support, query))
            predict = built.fit(support[None].float(), Context(modality_dims=modality_dims))
            answers = predict(query[None].float())[0].argmax(-1).numpy()
            np.testing.assert_array_equal(answers, expected)
            targets = np.repeat(np.arange(ways), indices.shape[1] - shots)
            assert share == pytest.approx((expected == targets).mean(), abs=1e-12)


class Means:
    """`NearestCentroid` without its statistics, which one shot does not have."""

    def fit(self, support, labels):
        self.means = np.stack([support[labels == n].mean(0) for n in np.unique(labels)])
        return self

    def predict(self, query):
        return pairwise_distances_argmin(query, self.means)


def scikit_learn(model):
    """The loop anybody would write."""

    def answers(support, query):
        labels = np.repeat(np.arange(len(support)), support.shape[1])
        return model.fit(support.flatten(0, 1).numpy(), labels).predict(query.numpy())

    return answers


@pytest.mark.parametrize(
    ("head", "model"),
    [
        ("prototypes", Means()),
        ("nearest", KNeighborsClassifier(1)),
        ("nearest:k=1,metric=cosine", KNeighborsClassifier(1, metric="cosine")),
        ("logistic", LogisticRegression(tol=1e-8, max_iter=10_000)),
        ("logistic:C=0.01", LogisticRegression(C=0.01, tol=1e-8, max_iter=10_000)),
        ("ridge", RidgeClassifier(alpha=1.0)),
        ("ridge:alpha=30", RidgeClassifier(alpha=30.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scikit_learn_gives_the_same_answers(head, model, hard, file):
    hold(head, scikit_learn(model), hard, file, ("v", "a", "av"))


HEADS = plugins.names("learn.fewshot.heads")
MORE = [
    n for n in HEADS if isinstance(plugins.build("learn.fewshot.heads", n), ExtraShotsHead)
]  # own tests


@pytest.mark.parametrize("head", HEADS)
def test_every_head_has_a_looped_twin(head):
    assert callable(import_module(f"tests.learn.references.{head}").answers)


@pytest.mark.parametrize("head", [name for name in HEADS if name not in MORE])
def test_the_looped_twin_gives_the_same_answers(head, hard, file):
    twin = import_module(f"tests.learn.references.{head}")
    hold(head, twin.answers, hard, file, ("v",))


def test_these_episodes_tell_heads_apart(hard, file):
    """Were they easy, or noise, agreement would say little."""
    heads = ("prototypes", "nearest", "logistic", "tim", "pt_map")
    results = learn.run_episodes(hard, episodes_file=file, heads=heads, support=("v",))
    of_five = [r for r in results.results if r.shots == 5]
    assert all(0.3 < r.accuracy < 0.95 for r in of_five)
    assert len({tuple(r.of_episodes) for r in of_five}) >= 4
