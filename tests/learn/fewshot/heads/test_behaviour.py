"""What every head does on clips whose answer is known, and on clips that are odd."""

import pytest
import torch

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError

HEADS = {
    name: plugins.build("learn.fewshot.heads", name)
    for name in plugins.names("learn.fewshot.heads")
}
TRANSDUCTIVE = [name for name, head in HEADS.items() if head.transductive]
every_head = pytest.mark.parametrize("name", HEADS)
DIM = 24


def context(dim: int = DIM) -> Context:
    zero = torch.zeros(dim)
    return Context(modality_dims=(dim,), support_mean=zero, query_mean=zero)


def toy(count: int, *, ways=5, shots=1, queries=8, spread: float, seed=0, dim=DIM):
    """Gaussian classes: support, query and the right answers."""
    rng = torch.Generator().manual_seed(seed)
    centre = torch.randn(count, ways, 1, dim, generator=rng)
    clips = centre + spread * torch.randn(count, ways, shots + queries, dim, generator=rng)
    targets = torch.arange(ways).repeat_interleave(queries)
    return clips[:, :, :shots].contiguous(), clips[:, :, shots:].flatten(1, 2), targets


def scores(name: str, support, query):
    return HEADS[name].fit(support, context(support.shape[-1]))(query)


def accuracy(name: str, support, query, targets) -> float:
    return float((scores(name, support, query).argmax(-1) == targets).float().mean())


@every_head
@pytest.mark.parametrize("shots", [1, 5])
def test_classes_far_apart_are_told_apart(name, shots):
    assert accuracy(name, *toy(20, shots=shots, spread=0.1)) > 0.99


@every_head
@pytest.mark.parametrize("shots", [1, 5])
def test_noise_gives_chance(name, shots):
    rng = torch.Generator().manual_seed(1)
    support, query, targets = toy(100, shots=shots, spread=1.0)
    support, query = (torch.randn(side.shape, generator=rng) for side in (support, query))
    assert accuracy(name, support, query, targets) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_seeing_all_queries_helps_where_classes_are_clouds(name):
    task = toy(60, queries=15, spread=1.2)
    assert accuracy(name, *task) > accuracy("prototypes", *task) + 0.03


# As tests/contracts/test_heads.py holds every head to it, but in double precision.
again = pytest.mark.soak


@again
@every_head
def test_the_flag_tells_whether_queries_see_each_other(name):
    support, query, _ = toy(6, spread=0.9)
    others = torch.randn(query.shape, generator=torch.Generator().manual_seed(2))
    others[:, :1] = query[:, :1]
    left, right = (scores(name, support, q)[:, 0].softmax(-1) for q in (query, others))
    assert torch.allclose(left, right, atol=1e-6) != HEADS[name].transductive


@again
@every_head
@pytest.mark.parametrize("shots", [1, 3])
def test_the_order_of_queries_and_classes_only_reorders_the_scores(name, shots):
    rng = torch.Generator().manual_seed(3)
    support, query, _ = toy(6, shots=shots, spread=0.9)
    support, query = support.double(), query.double()
    order, classes = (torch.randperm(n, generator=rng) for n in (query.shape[1], 5))
    plain = scores(name, support, query)
    torch.testing.assert_close(scores(name, support, query[:, order]), plain[:, order])
    torch.testing.assert_close(scores(name, support[:, classes], query), plain[..., classes])


@again
@every_head
def test_an_episode_does_not_see_the_others(name):
    support, query, _ = toy(7, shots=2, spread=0.9)
    support, query = support.double(), query.double()  # iterations enlarge the rounding of threads
    together = scores(name, support, query)
    for e in range(len(support)):
        alone = scores(name, support[e : e + 1], query[e : e + 1])
        torch.testing.assert_close(alone[0], together[e], atol=1e-5, rtol=1e-4)


@every_head
def test_the_inputs_are_left_as_they_were(name):
    support, query, _ = toy(3, shots=2, spread=0.9)
    before = support.clone(), query.clone()
    scores(name, support, query)
    assert torch.equal(support, before[0])
    assert torch.equal(query, before[1])


@every_head
def test_the_same_question_gets_the_same_answer(name):
    support, query, _ = toy(4, spread=0.9)
    assert torch.equal(scores(name, support, query), scores(name, support, query))


def odd_episodes():
    support, query, _ = toy(4, ways=5, shots=2, spread=0.5)
    yield "one shot", support[:, :, :1], query
    yield "two classes", support[:, :2], query[:, :16]
    yield "one query", support, query[:, :5] * 0 + query[:, :1]
    yield "shots all the same", support[:, :1, :1].expand_as(support).clone(), query
    yield "queries all the same", support, query[:, :1].expand_as(query).clone()
    yield "queries that are shots", support, support.flatten(1, 2)
    yield "everything the same", torch.ones_like(support), torch.ones_like(query)
    yield "zero shots", torch.zeros_like(support), query
    yield "zero queries", support, torch.zeros_like(query)
    yield "nothing but zeros", torch.zeros_like(support), torch.zeros_like(query)
    yield "one zero clip", torch.cat([support[:, :, :1], 0 * support[:, :, :1]], 2), query
    yield "huge", 1e6 * support, 1e6 * query
    yield "tiny", 1e-6 * support, 1e-6 * query
    yield "more classes than dimensions", support[..., :2], query[..., :2]


ODD = {odd: (support, query) for odd, support, query in odd_episodes()}


@every_head
@pytest.mark.parametrize("odd", ODD)
def test_odd_clips_get_finite_scores(name, odd):
    assert scores(name, *ODD[odd]).isfinite().all()


@every_head
def test_any_number_of_queries_is_answered_or_refused(name):
    support, query, _ = toy(3, shots=2, spread=0.5)
    for count in (1, 7):
        try:
            got = scores(name, support, query[:, :count])
        except ConfigError as error:
            assert "queries" in str(error)  # noqa: PT017
        else:
            assert got.shape == (3, count, 5)
            assert got.isfinite().all()
