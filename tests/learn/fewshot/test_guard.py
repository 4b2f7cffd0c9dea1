"""The guard: with no say of the projection it is the stored side, with all of it the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learn.fewshot.fused import FusedPredictor
from learn.fewshot.fusions import FAMILY, Prior, equal
from learn.fewshot.guard import (
    NAMES,
    STAND_BACK,
    STORED,
    Guarded,
    GuardPrior,
    of_senses,
)
from learn.fewshot.heads import Context
from learn.fewshot.metrics import Predictor
from learn.fewshot.modes import Pair
from learn.fewshot.products import Table
from learn.fewshot.tasks import Episodes
from store import plugins

DEFAULT = "ridge:power=0.5,centre=support,unit=true"
CLASSES, EACH, WAYS = 12, 14, 5
SENSES = {"v": ("visual",), "av": ("visual", "audio")}


@pytest.fixture(scope="module")
def clips():
    """Stored vectors, and a good and a useless projection of each sense."""
    rng = torch.Generator().manual_seed(0)
    of = torch.arange(CLASSES).repeat_interleave(EACH)
    found = {}
    for name, size in (("visual", 24), ("audio", 10)):
        means = torch.randn(CLASSES, size, generator=rng)[of]
        stored = means + 1.5 * torch.randn(len(of), size, generator=rng)
        good = F.normalize(means + 0.5 * torch.randn(len(of), size, generator=rng), dim=-1)
        bad = F.normalize(torch.randn(len(of), size, generator=rng), dim=-1)
        found[name] = {"stored": stored, "good": good, "bad": bad}
    return found


def drawn(shots):
    rng = np.random.default_rng(shots)
    indices = np.stack(
        [
            [EACH * n + rng.permutation(EACH)[: shots + 3] for n in rng.permutation(CLASSES)[:WAYS]]
            for _ in range(150)
        ]
    )
    return Episodes(
        indices=indices.astype(np.int32), classes=(indices[:, :, 0] // EACH).astype(np.int32),
        shots=shots, seed=0, clips_sha256="",
    )  # fmt: skip


def predictor(clips, kind, mode, sides, *, head=DEFAULT, queries=10**6, names=None):
    inner = plugins.build(FAMILY, "weighted") if mode == "av" else None
    fusion = Guarded(mode, inner, inner, names=names is not None)
    vectors = {name: clips[name][kind] for name in SENSES[mode]}
    vectors |= {f"{STORED}{name}": clips[name]["stored"] for name in SENSES[mode]}
    if names is not None:  # the good projection's class means, of one size in both senses
        seen = F.normalize(clips["audio"]["good"].view(CLASSES, EACH, -1).mean(1), dim=-1)
        vectors |= {NAMES: seen.repeat_interleave(EACH, dim=0)}
        vectors |= dict.fromkeys(SENSES[mode], clips["audio"][kind])
    views = fusion.views(vectors)
    senses = equal(2) if mode == "av" else None
    return FusedPredictor(
        head=plugins.build("learn.fewshot.heads", head),
        fusion=fusion,
        pairs=[
            Pair(support=v.as_shots, query=v.vectors, modality_dims=v.modality_dims) for v in views
        ],
        contexts=[Context(modality_dims=v.modality_dims, origin=v.vectors.mean(0)) for v in views],
        prior_of=lambda _: GuardPrior.of(senses, senses, sides, names, ""),
        queries=queries,
    )


def alone(clips, kind, mode, *, head=DEFAULT):
    """One side by itself, weighed as within the guard."""
    vectors = {name: clips[name][kind] for name in SENSES[mode]}
    pairs = [Pair(support=x, query=x, modality_dims=(x.shape[1],)) for x in vectors.values()]
    contexts = [Context(modality_dims=p.modality_dims, origin=p.support.mean(0)) for p in pairs]
    built = plugins.build("learn.fewshot.heads", head)
    if mode == "v":
        return Predictor(head=built, pair=pairs[0], context=contexts[0], queries=10**6)
    return FusedPredictor(
        head=built, fusion=plugins.build(FAMILY, "weighted"), pairs=pairs, contexts=contexts,
        prior_of=lambda _: equal(2), queries=10**6,
    )  # fmt: skip


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("mode", ["v", "av"])
def test_either_side_alone_is_that_side(clips, mode, shots):
    episodes = drawn(shots)
    for value, kind in (((1.0, 0.0), "stored"), ((0.0, 1.0), "good")):
        sides = Prior(value=value, origin="", alone_until=9)
        guarded = predictor(clips, "good", mode, sides).predict(episodes)
        np.testing.assert_array_equal(guarded, alone(clips, kind, mode).predict(episodes))


@pytest.mark.parametrize("head", [DEFAULT, "prototypes", "nearest", "bdcspn"])
@pytest.mark.parametrize("mode", ["v", "av"])
def test_tables_give_what_vectors_give(clips, mode, head):
    episodes = drawn(3)
    sides = Prior(value=(0.6, 0.4), origin="")
    fast, slow = (predictor(clips, "good", mode, sides, head=head, queries=n) for n in (10**6, 0))
    assert fast.tables is not None
    assert slow.tables is None
    gathered, reference = (predictor(clips, "good", mode, sides, head=head) for _ in range(2))
    reference.__dict__["products"] = None  # from vectors
    gathered = replace(gathered, queries=CLASSES * EACH)
    assert gathered.tables is None
    for other in (slow, gathered, reference):
        np.testing.assert_array_equal(fast.predict(episodes), other.predict(episodes))
        np.testing.assert_allclose(fast.weights(episodes), other.weights(episodes), atol=2e-5)
    np.testing.assert_allclose(fast.weights(episodes).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("head", [DEFAULT, "prototypes", "bdcspn"])
@pytest.mark.parametrize(("mode", "shots"), [("v", 1), ("av", 1), ("v", 3), ("av", 3)])
def test_names_are_a_sense_by_tables_and_by_vectors(clips, mode, shots, head):
    episodes, sides = drawn(shots), Prior(value=(0.6, 0.4), origin="")
    fast, slow = (predictor(clips, "good", mode, sides, head=head, names=0.3) for _ in range(2))
    slow.__dict__["products"] = None
    assert fast.tables is not None
    np.testing.assert_array_equal(fast.predict(episodes), slow.predict(episodes))
    found = fast.weights(episodes)
    np.testing.assert_allclose(found, slow.weights(episodes), atol=2e-5)
    np.testing.assert_allclose(found[:, -1], 0.3, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    senses = of_senses(torch.from_numpy(found), fast.prior(episodes))
    assert senses.shape == (len(episodes), len(SENSES[mode]) + 1)
    torch.testing.assert_close(senses.sum(1), torch.ones(len(episodes)))


@pytest.mark.parametrize("mode", ["v", "av"])
def test_names_that_count_nothing_change_nothing_and_all_that_count_are_their_own(clips, mode):
    episodes, truth = drawn(1), np.repeat(np.arange(WAYS), 3)
    sides = Prior(value=(0.6, 0.4), origin="")
    none, nothing, alone = (
        predictor(clips, "good", mode, sides, names=names).predict(episodes)
        for names in (1e-9, 0.0, 1.0)
    )
    np.testing.assert_array_equal(none, nothing)
    assert (alone == truth).mean() > (nothing == truth).mean() + 0.02, "means of all clips"


@pytest.mark.parametrize("shots", [1, 2])
def test_one_or_two_shots_leave_an_unknown_projection_out(clips, shots):
    weights = predictor(clips, "good", "v", STAND_BACK).weights(drawn(shots))
    np.testing.assert_array_equal(weights, np.tile([[1.0, 0.0]], (150, 1)))


@pytest.mark.parametrize("shots", [1, 2, 3])
@pytest.mark.parametrize("mode", ["v", "av"])
def test_what_counts_nothing_is_not_looked_up(clips, mode, shots, monkeypatch):
    episodes, looked = drawn(shots), []
    guarded = predictor(clips, "good", mode, STAND_BACK)
    tables, of = guarded.tables, Table.of
    monkeypatch.setattr(Table, "of", lambda self, *a: looked.append(self) or of(self, *a))
    found = guarded.predict(episodes)
    used = [any(table is x for x in looked) for table in tables]
    senses = len(SENSES[mode])
    assert used == [True] * senses + [shots > 2] * senses
    reference = predictor(clips, "good", mode, STAND_BACK)
    reference.__dict__["products"] = None
    np.testing.assert_array_equal(found, reference.predict(episodes))
    np.testing.assert_allclose(guarded.weights(episodes), reference.weights(episodes), atol=2e-5)


@pytest.mark.parametrize("mode", ["v", "av"])
def test_five_shots_tell_a_good_projection_from_a_useless_one(clips, mode):
    episodes, truth = drawn(5), np.repeat(np.arange(WAYS), 3)
    share, right = {}, {}
    for kind in ("good", "bad"):
        guarded = predictor(clips, kind, mode, STAND_BACK)
        right[kind] = (guarded.predict(episodes) == truth).mean()
        share[kind] = guarded.weights(episodes)[:, len(SENSES[mode]) :].sum(1).mean()
    stored = (alone(clips, "stored", mode).predict(episodes) == truth).mean()
    bare = (alone(clips, "bad", mode).predict(episodes) == truth).mean()
    assert share["good"] > 0.35 > 0.1 > share["bad"]
    assert right["good"] > stored + 0.02
    assert right["bad"] > stored - 0.01
    assert bare < stored - 0.3


def test_the_prior_of_both_sides_is_that_of_each_times_its_share():
    stored, sides = replace(equal(2), value=(0.8, 0.2)), Prior(value=(0.75, 0.25), origin="x")
    prior = GuardPrior.of(stored, None, sides)
    assert prior.value == pytest.approx((0.6, 0.15, 0.25))
    assert prior.origin == "x"
