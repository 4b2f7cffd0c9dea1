"""Each objective against its equation, term by term."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from learn.training.objectives import Batch, ObjectiveContext
from learn.training.objectives.cross_entropy import Config as CrossEntropyConfig
from learn.training.objectives.cross_entropy import build as build_cross_entropy
from learn.training.objectives.infonce import Config, build
from store.errors import ConfigError

BOTH = {"visual": 6, "audio": 6}
SCENE = ObjectiveContext(outputs=BOTH, inputs=BOTH, classes=("a", "b", "c"), clips=9)


def batch(labels=(0, 1, 0, 2, -1, -1, 1), seed=0):
    visual, audio = torch.randn(2, len(labels), 6, generator=torch.Generator().manual_seed(seed))
    return Batch(
        embeddings={"visual": visual, "audio": audio},
        labels=torch.tensor(labels),
        clips=torch.arange(len(labels)),
    )


def literal_infonce(b, *, temperature, symmetric, negatives):
    unit = [[x / x.norm() for x in side] for side in b.embeddings.values()]
    total = 0.0
    for anchors, others in (unit, unit[::-1]):
        for i, anchor in enumerate(anchors):
            bottom = 0.0
            for j, other in enumerate(others):
                same = b.labels[i] == b.labels[j] and b.labels[i] >= 0 and i != j
                if negatives == "all" or not same:
                    bottom += math.exp(float(anchor @ other) / temperature)
            total -= math.log(math.exp(float(anchor @ others[i]) / temperature) / bottom)
    return total / len(b.labels) / (2 if symmetric == "mean" else 1)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("symmetric", ["mean", "sum"])
@pytest.mark.parametrize("negatives", ["all", "exclude_same_class"])
def test_infonce_is_its_equation(temperature, symmetric, negatives):
    settings = {"temperature": temperature, "symmetric": symmetric, "negatives": negatives}
    got = build(Config(**settings), SCENE)(batch())
    assert got.item() == pytest.approx(literal_infonce(batch(), **settings), rel=1e-5)


def test_a_learnt_temperature_starts_where_it_is_set_and_stays_above_a_hundredth():
    settings = {"temperature": 0.07, "symmetric": "mean", "negatives": "all"}
    objective = build(Config(**settings, learn_temperature=True), SCENE)
    cost = objective(batch())
    assert cost.item() == pytest.approx(literal_infonce(batch(), **settings), rel=1e-5)
    cost.backward()
    assert objective.log_scale.grad.abs() > 0
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    objective.after_step(batch())
    assert objective.log_scale.exp().item() == pytest.approx(100, rel=1e-5)
    assert not list(build(Config(**settings), SCENE).parameters())


def test_every_modality_may_have_a_perceptron_of_its_own():
    config = CrossEntropyConfig(hidden=5, shared=False)
    objective = build_cross_entropy(config, SCENE)
    b = batch(labels=(0, 1, 2, 0))
    terms = objective.terms(b)
    for name, x in b.embeddings.items():
        first, _, last = objective.classifiers[name]
        logits = torch.nn.functional.gelu(x @ first.weight.T + first.bias) @ last.weight.T
        cost = torch.nn.functional.cross_entropy(logits + last.bias, b.labels)
        torch.testing.assert_close(terms[name], cost / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_its_equation(smoothing):
    b = batch(labels=(0, 1, 2, 0))
    objective = build_cross_entropy(CrossEntropyConfig(label_smoothing=smoothing), SCENE)
    weight, bias = (p.detach() for p in objective.classifier.parameters())
    total = 0.0
    for side in b.embeddings.values():
        for x, label in zip(side, b.labels.tolist(), strict=True):
            exps = [math.exp(float(w @ x + c)) for w, c in zip(weight, bias, strict=True)]
            for c, e in enumerate(exps):
                wanted = (1 - smoothing) * (c == label) + smoothing / 3
                total -= wanted * math.log(e / sum(exps)) / 8
    assert objective(b).item() == pytest.approx(total, rel=1e-5)


def test_settings_out_of_bounds_are_refused():
    for asked in ({"temperature": 0.0}, {"symmetric": "both"}, {"negatives": "none"}):
        with pytest.raises(ConfigError, match="infonce"):
            Config(**asked)
    with pytest.raises(ConfigError, match="label_smoothing"):
        CrossEntropyConfig(label_smoothing=1.0)
    alone = {"audio": 6}
    one_sided = ObjectiveContext(outputs=alone, inputs=alone, classes=("a",), clips=9)
    with pytest.raises(ConfigError, match="two modalities"):
        build(Config(), one_sided)


def test_a_batch_has_one_size():
    with pytest.raises((ValueError, TypeCheckError)):
        Batch(
            embeddings={"audio": torch.ones(3, 2)},
            labels=torch.zeros(2).long(),
            clips=torch.arange(2),
        )
