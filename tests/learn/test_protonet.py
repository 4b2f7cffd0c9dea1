"""ProtoNet against a loop over queries and classes, and on vectors whose answer is plain."""

import math

import numpy as np
import pytest
import torch

from learn.heads import Context
from learn.objectives import Batch, Scene
from learn.objectives._episodic import NEVER
from store import plugins
from store.errors import ConfigError

DIM = 6


def build(spec="protonet:scale=3", outputs=("visual",)):
    scene = Scene(
        outputs=dict.fromkeys(outputs, DIM), inputs=dict.fromkeys(outputs, DIM),
        classes=("a", "b", "c"), clips=9,
    )  # fmt: skip
    return plugins.build("learn.objectives", spec, scene).eval()


def batch(labels, **embeddings):
    return Batch(
        embeddings=embeddings, labels=torch.tensor(labels), clips=torch.arange(len(labels))
    )


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def literal(labels, query, support, same, scale):
    """Mean over the clips that have a shot: minus the log of their class's share."""
    costs = []
    for i, label in enumerate(labels):
        scores = {}
        for c in sorted(set(labels)):
            shots = [
                support[j] for j in range(len(labels)) if labels[j] == c and not (same and j == i)
            ]
            if shots:
                scores[c] = -scale * float(((query[i] - np.mean(shots, 0)) ** 2).sum())
        if label in scores:
            total = math.log(sum(math.exp(s) for s in scores.values()))
            costs.append(total - scores[label])
    return sum(costs) / max(1, len(costs))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [2, 0, 0, 1, 0, 0], [0, 1, 2, 0, 1, 2]])
def test_it_is_its_equation(labels):
    rng = np.random.default_rng(0)
    x = {name: 4 * rng.standard_normal((6, DIM)) for name in ("visual", "audio")}
    objective = build(outputs=("visual", "audio")).double()
    terms = objective.terms(batch(labels, **{n: torch.from_numpy(v) for n, v in x.items()}))
    assert len(terms) == 4
    for query in x:
        for support in x:
            wanted = literal(labels, unit(x[query]), unit(x[support]), query == support, 3.0)
            assert terms[f"{query}_{support}"].item() == pytest.approx(wanted / 4, rel=1e-9)


def test_classes_a_right_angle_apart():
    """Two classes of two equal clips each: distances 0 and 2."""
    x = torch.eye(DIM)[[0, 0, 1, 1]]
    cost = build().terms(batch([0, 0, 1, 1], visual=x))["visual_visual"]
    assert cost.item() == pytest.approx(math.log(1 + math.exp(-3 * 2)), rel=1e-4)


def test_its_head_is_the_nearest_mean_of_unit_vectors():
    rng = torch.Generator().manual_seed(0)
    support, query = (torch.randn(*shape, DIM, generator=rng) for shape in ((4, 3, 2), (4, 5)))
    ours = build().head().fit(support, Context(blocks=(DIM,)))(query)
    means = torch.nn.functional.normalize(support, dim=-1).mean(2)
    away = torch.cdist(torch.nn.functional.normalize(query, dim=-1), means) ** 2
    torch.testing.assert_close(ours, -3 * away, rtol=1e-4, atol=1e-4)


def test_shots_shown_decide():
    """A shot hidden from a query is as if it were not there; a class without any never wins."""
    objective = build()
    rng = torch.Generator().manual_seed(1)
    support, query = (torch.randn(*shape, DIM, generator=rng) for shape in ((1, 3, 4), (1, 2)))
    shown = torch.rand(1, 2, 3, 4, generator=rng) < 0.6
    shown[..., 0] = True
    scores = objective.compare(query, support, shown)
    for m in range(2):
        for n in range(3):
            some = support[:, n : n + 1, shown[0, m, n]]
            alone = objective.compare(query[:, m : m + 1], some)
            torch.testing.assert_close(scores[:, m : m + 1, n : n + 1], alone)
    nobody = torch.zeros_like(shown)
    assert objective.compare(query, support, nobody).abs().max() < -NEVER


@pytest.mark.parametrize("spec", ["protonet:shots=-1", "protonet:scale=0"])
def test_settings_out_of_bounds_are_refused(spec):
    with pytest.raises(ConfigError, match="protonet"):
        build(spec)
