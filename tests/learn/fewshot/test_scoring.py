"""Scoring in bounded memory: how many episodes go together, and that it changes no answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learn.fewshot import products, scoring
from learn.fewshot.heads import Context, ExtraShotsHead
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import Episodes
from store import plugins

CLIPS, DIM, SHOTS = 120, 16, 2
HEADS = {
    name: plugins.build("learn.fewshot.heads", name)
    for name in plugins.names("learn.fewshot.heads")
}
HEADS = {name: head for name, head in HEADS.items() if not isinstance(head, ExtraShotsHead)}


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(0)
    centre = torch.randn(6, 1, DIM, generator=rng)
    clips = (centre + torch.randn(6, CLIPS // 6, DIM, generator=rng)).flatten(0, 1)
    return Pair(support=clips, query=clips, modality_dims=(DIM,))


@pytest.fixture
def episodes():
    rng = np.random.default_rng(0)
    classes = np.stack([rng.choice(6, 4, replace=False) for _ in range(60)]).astype(np.int32)
    clips = np.stack([rng.permutation(CLIPS // 6)[:5] for _ in range(240)]).reshape(60, 4, 5)
    indices = (classes[..., None] * (CLIPS // 6) + clips).astype(np.int32)
    return Episodes(indices=indices, classes=classes, shots=SHOTS, seed=0, clips_sha256="")


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_memory_changes_no_answer(head, pair, episodes):
    context = Context(modality_dims=(DIM,), origin=pair.support.mean(0))
    episodes = replace(episodes, indices=episodes.indices[:3], classes=episodes.classes[:3])
    predictions = [
        scoring.scorer(head, pair, context, queries=10**6, memory=memory)(episodes)
        for memory in (1, 200_000, 1 << 30)
    ]
    for other in predictions[:2]:
        # A query between two classes may fall to either by rounding alone.
        assert (other != predictions[2]).sum() <= 1
    assert len(np.unique(predictions[2])) == 4


SPECS = [
    *(name for name, head in HEADS.items() if getattr(head, "by_products", False)),
    *(name for name, head in HEADS.items() if getattr(head, "by_gram", False)),
    "ridge:power=0.5,centre=support,unit=true",
    "prototypes:metric=cl2n,centre=support",
    "prototypes:metric=cosine",
    "nearest:power=0.5,unit=true",
]


@pytest.mark.parametrize("dims", [(DIM,), (DIM // 4, DIM - DIM // 4)], ids=["one", "joined"])
@pytest.mark.parametrize("spec", SPECS)
def test_every_way_to_products_answers_as_vectors_do(spec, dims, pair, episodes):
    head = plugins.build("learn.fewshot.heads", spec)
    context = Context(modality_dims=dims, origin=pair.support.mean(0))
    pair = Pair(support=pair.support, query=pair.query, modality_dims=dims)
    episodes = replace(episodes, indices=episodes.indices[:20], classes=episodes.classes[:20])
    expected = scoring.by_vectors(head, pair, context)(episodes)
    for queries in (1, CLIPS, 10**6):  # embedded as gathered, gathered, looked up
        found = scoring.scorer(head, pair, context, queries=queries)(episodes)
        # A query between two classes may fall to either by rounding alone.
        assert (found != expected).sum() <= 1, queries


class Spy:
    """Answers the first class, and remembers how many episodes it saw at once."""

    transductive = False
    centred_by = "none"
    scale_free = True

    def __init__(self):
        self.seen = []

    def fit(self, support, context):
        self.seen.append(len(support))
        return lambda query: torch.eye(support.shape[1])[:1].expand(*query.shape[:2], -1)


@pytest.mark.parametrize(("memory", "at_once"), [(1, 1), (4 * 20 * DIM * 128, 4), (1 << 30, 60)])
def test_as_many_episodes_go_together_as_memory_holds(pair, episodes, memory, at_once):
    spy = Spy()
    predictions = scoring.scorer(
        spy, pair, Context(modality_dims=(DIM,)), queries=1, memory=memory
    )(episodes)
    assert spy.seen == [at_once] * (60 // at_once)
    assert (predictions == 0).all()


@pytest.mark.parametrize("name", ["ridge", "bdcspn"])
@pytest.mark.parametrize("both", [True, False], ids=["one side", "two sides"])
def test_a_table_is_made_where_it_fits_and_pays(monkeypatch, pair, episodes, name, both):
    if not both:
        pair = Pair(support=pair.support, query=pair.support.clone(), modality_dims=(DIM,))
    looked, look_up = [], products.look_up
    monkeypatch.setattr(products, "look_up", lambda *a: looked.append(1) or look_up(*a))

    def looks_up(**asked):
        looked.clear()
        scoring.scorer(HEADS[name], pair, Context(modality_dims=(DIM,)), **asked)(episodes)
        return bool(looked)

    side_count = 1 if both else 2
    entries = CLIPS**2 * (side_count**2 if name == "bdcspn" else side_count)
    wanted = 2 * 4 * (entries + side_count * CLIPS * DIM)
    assert looks_up(queries=10**6, memory=wanted)
    assert not looks_up(queries=10**6, memory=wanted - 2)
    assert not looks_up(queries=1, memory=wanted)
