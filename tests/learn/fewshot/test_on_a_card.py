"""Every head where the vectors are on a GPU: nothing of it is left on the processor."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from learn.fewshot.fused import FusedPredictor
from learn.fewshot.fusions import FAMILY, equal
from learn.fewshot.heads import Context
from learn.fewshot.heads._transform import taken_apart
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import scorer
from store import plugins
from tests.fake_cuda import CARD, fake_card

HEADS = "learn.fewshot.heads"
CLIPS, DIM = 40, 8


def episodes(make_clips):
    settings = {"ways": 3, "shots": 2, "queries": 2, "episodes": 6}
    return plugins.build("learn.fewshot.tasks", plugins.Spec("n_way_k_shot", settings))(
        make_clips([8] * 5), seed=0
    )


def asked_of(name, drawn, queries, vectors, context):
    head = plugins.build(HEADS, name)
    pair = Pair(
        support=vectors, query=vectors, modality_dims=(DIM,), other_modality=vectors,
        names=vectors[:5],  # of as many classes
    )  # fmt: skip
    return scorer(head, pair, context, queries=queries)(drawn)


# What decides by numbers on its way (convergence, a search by FAISS) needs real ones.
BY_NUMBERS = ("logistic", "pt_map", "laplacian", "ridge")


@pytest.mark.parametrize("name", sorted(set(plugins.names(HEADS))))
@pytest.mark.parametrize("queries", [0, 10**9], ids=["vectors", "table"])
def test_a_head_answers_on_a_card(name, queries, make_clips):
    if name in BY_NUMBERS:
        pytest.skip("decides by numbers: needs a card")
    if "steps" in {field.name for field in fields(plugins.module(HEADS, name).Config)}:
        name += ":steps=1"
    drawn = episodes(make_clips)
    seen = []
    with fake_card():
        vectors = torch.zeros(CLIPS, DIM, device=CARD)
        mean = torch.zeros(DIM, device=CARD)
        context = Context(modality_dims=(DIM,), support_mean=mean, query_mean=mean, origin=mean)
        import learn.fewshot.scoring as scoring

        def in_parts(scores, numbers, memory, device):
            def score(of):
                for batch in of.batches():
                    found = scores(batch, slice(0, 3))
                    seen.append((found.device, tuple(found.shape)))
                return np.zeros(of.query.shape, int)

            return score

        original, scoring.in_parts = scoring.in_parts, in_parts
        try:
            asked_of(name, drawn, queries, vectors, context)
        finally:
            scoring.in_parts = original
    assert seen == [(CARD, (3, 6, 3))]


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(set(plugins.names(HEADS))))
def test_a_head_answers_the_same_on_a_card(name, make_clips):
    drawn = episodes(make_clips)
    vectors = torch.randn(CLIPS, DIM, generator=torch.Generator().manual_seed(0))
    answers = []
    for device in ("cpu", "cuda"):
        x = vectors.to(device)
        context = Context(modality_dims=(DIM,), support_mean=x.mean(0), query_mean=x.mean(0),
                          origin=x.mean(0))  # fmt: skip
        answers.append(asked_of(name, drawn, 10**9, x, context))
    assert (answers[0] == answers[1]).mean() > 0.98


@pytest.mark.parametrize("queries", [0, 10**9], ids=["vectors", "table"])
@pytest.mark.parametrize("head", ["prototypes", "label_propagation"])
def test_fused_senses_are_weighed_on_a_card(head, queries, make_clips):
    drawn = episodes(make_clips)
    with fake_card():
        vectors = torch.zeros(CLIPS, DIM, device=CARD)
        pair = Pair(support=vectors, query=vectors, modality_dims=(DIM,))
        context = Context(modality_dims=(DIM,), origin=torch.zeros(DIM, device=CARD))
        predictor = FusedPredictor(
            head=plugins.build(HEADS, head), fusion=plugins.build(FAMILY, "weighted"),
            pairs=[pair, pair], contexts=[context, context], prior_of=lambda _: equal(2),
            queries=queries,
        )  # fmt: skip
        assert (predictor.tables is not None) == bool(queries)
        prior = predictor.prior(drawn)
        for batch in drawn.batches():
            weights = predictor._weights_of(batch, slice(0, 3), prior)
            assert tuple(weights.shape) == (3, 2)
            scores = predictor._by_vectors(torch.full((6, 2), 0.5, device=CARD))
            found = scores(batch, slice(0, 3))
            assert (found.device, tuple(found.shape)) == (CARD, (3, 6, 3))
            if queries:
                core = taken_apart(predictor.head)[0]
                known = np.full((6, 2), 0.5, np.float32)
                by_tables = (
                    predictor._by_products(core, known, prior)
                    if head == "prototypes"
                    else predictor._by_gram(core, torch.from_numpy(known).to(CARD))
                )
                assert by_tables(batch, slice(0, 3)).device == CARD
