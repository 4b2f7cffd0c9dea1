"""What is kept between heads: one table for all that see the clips alike, within its memory."""

import numpy as np
import pytest
import torch

from learn.fewshot import kept
from learn.fewshot.heads import Context
from learn.fewshot.kept import FETCHED, TABLE_WORTH, Kept, _gram, embedded, queries_of
from learn.fewshot.modes import Pair
from learn.fewshot.products import Gathered, Met, Table
from learn.fewshot.scoring import scorer
from learn.fewshot.tasks import Episodes
from store import plugins

CLIPS, DIM = 120, 16
TABLE, VECTORS = 4 * CLIPS**2, 4 * CLIPS * DIM


def head(spec):
    return plugins.build("learn.fewshot.heads", spec)


@pytest.fixture
def pair():
    clips = torch.randn(CLIPS, DIM, generator=torch.Generator().manual_seed(0))
    return Pair(support=clips, query=clips, modality_dims=(DIM,))


@pytest.fixture
def context(pair):
    return Context(modality_dims=(DIM,), origin=pair.support.mean(0))


@pytest.fixture
def tables(monkeypatch):
    """The tables made so far."""
    made, make = [], kept._table
    monkeypatch.setattr(kept, "_table", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    return made


def asked(pair, context, memory=1 << 30, queries=10**6):
    """A function from a head's SPEC to its products, all kept in one place."""
    shared = Kept()

    def of(spec, pair=pair, context=context, queries=queries, **more):
        built = head(spec)
        return shared.products(built, pair, context, queries=queries, memory=memory, **more)

    return of


def test_heads_that_see_clips_alike_share_one_table(pair, context, tables):
    of = asked(pair, context)
    first = of("prototypes")
    again = Pair(support=pair.support.clone(), query=pair.query, modality_dims=(DIM,))
    again = Pair(support=again.support, query=again.support, modality_dims=(DIM,))
    for spec in ("ridge", "nearest", "gda"):
        assert of(spec, pair=again) is first
    assert len(tables) == 1
    assert of("prototypes:metric=cosine") is not first
    assert of("ridge:power=0.5") is not first
    assert len(tables) == 3
    assert of("nearest") is first


def test_other_clips_have_a_table_of_their_own(pair, context, tables):
    of, other = asked(pair, context), pair.support.clone()
    of("prototypes")
    other[-1, -1] += 1
    of("prototypes", pair=Pair(support=other, query=other, modality_dims=(DIM,)))
    assert len(tables) == 2
    torch.testing.assert_close(tables[1].among[-1, -1], (other[-1] - context.origin).square().sum())


@pytest.mark.parametrize("gram", [False, True])
def test_two_sides_are_not_taken_for_one(pair, context, tables, gram):
    of = asked(pair, context)
    two = Pair(support=pair.support, query=pair.query.clone(), modality_dims=(DIM,))
    spec = "bdcspn" if gram else "nearest"
    of(spec, gram=gram)
    found = of(spec, pair=two, gram=gram)
    assert len(tables) == 2
    assert found.shift == (CLIPS if gram else 0)


def test_a_table_is_made_when_all_that_was_asked_would_have_paid_for_it(pair, context):
    needed = -(-(CLIPS**2) // TABLE_WORTH)
    of = asked(pair, context, queries=needed // 3 + 1)
    found = [of(spec) for spec in ("ridge", "nearest", "gda")]
    assert [type(x) for x in found] == [Gathered, Gathered, Table]
    torch.testing.assert_close(found[0].left @ found[0].left.T, found[2].among)


def test_the_latest_stay_within_half_the_memory(pair, context, tables):
    of = asked(pair, context, memory=2 * 2 * (TABLE + VECTORS))
    specs = ["prototypes", "ridge:power=0.5", "nearest:metric=cosine"]
    first, second, _ = (of(spec) for spec in specs)
    assert of("gda:power=0.5") is second
    assert of("prototypes") is not first
    assert len(tables) == 4
    assert of("gda:power=0.5") is second


def test_senses_of_one_predictor_stay_together(pair, context, tables):
    of = asked(pair, context, memory=2 * 2 * (TABLE + VECTORS))
    specs = ["prototypes", "ridge:power=0.5"]
    found = [of(spec, senses=2) for spec in specs]
    assert [of(spec, senses=2) for spec in specs] == found
    assert isinstance(of("nearest:metric=cosine", senses=3), Gathered)


def test_clips_that_do_not_fit_are_embedded_as_they_are_gathered(pair, context):
    some = asked(pair, context, memory=2 * VECTORS)("ridge:power=0.5")
    none = asked(pair, context, memory=2 * VECTORS - 2)("ridge:power=0.5")
    assert (some.embed is None, none.embed is None) == (True, False)
    drawn = torch.arange(12, dtype=torch.int32).view(2, 6)
    for x, y in zip(some.of(drawn, drawn + 20), none.of(drawn, drawn + 20), strict=True):
        torch.testing.assert_close(x, y)


def test_few_episodes_of_many_clips_embed_no_more_than_they_draw(pair, context, monkeypatch):
    monkeypatch.setattr(kept, "embedded", lambda *a: pytest.fail("all clips"))
    found = asked(pair, context)("ridge:power=0.5", queries=CLIPS // 2 - 1)
    monkeypatch.undo()
    drawn = torch.arange(12, dtype=torch.int32).view(2, 6)
    expected = asked(pair, context)("ridge:power=0.5").of(drawn, drawn + 20)
    for x, y in zip(found.of(drawn, drawn + 20), expected, strict=True):
        torch.testing.assert_close(x, y)


def test_queries_count_by_what_they_are_compared_with():
    def episodes(shots):
        indices = np.arange(5 * (shots + 3), dtype=np.int32).reshape(1, 5, shots + 3)
        return Episodes(
            indices=indices, classes=np.arange(5, dtype=np.int32)[None], shots=shots, seed=0,
            clips_sha256="",
        )  # fmt: skip

    assert queries_of([episodes(1)]) == 15
    assert queries_of([episodes(1), episodes(5)]) > 2 * 15
    assert queries_of([episodes(2)] * 100) == 1500 * (FETCHED + 40) // TABLE_WORTH


def test_products_of_all_clips_are_a_matrix_product():
    x = torch.randn(700, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_gram(x), x @ x.T)


def test_two_sides_under_two_means_are_embedded_apart(pair):
    means = torch.zeros(DIM), torch.ones(DIM)
    context = Context(modality_dims=(DIM,), support_mean=means[0], query_mean=means[1])
    centred = head("prototypes:centre=base")
    left, right = embedded(centred, pair, context)
    expected = centred.embed(pair.support, pair.query, context)
    assert torch.equal(left, expected[0])
    assert torch.equal(right, expected[1])
    assert not torch.equal(left, right)


def drawn(shots, count=30, seed=0):
    rng = np.random.default_rng([shots, seed])
    return Episodes(
        indices=np.stack([
            rng.permutation(CLIPS)[: 5 * (shots + 3)].reshape(5, -1) for _ in range(count)
        ]).astype(np.int32),
        classes=np.tile(np.arange(5, dtype=np.int32), (count, 1)),
        shots=shots,
        seed=0,
        clips_sha256="",
    )  # fmt: skip


def answers(specs, episodes, pair, context, shared, memory):
    """What the heads answer, one after the other, and how many rows they gathered for it."""
    rows = []
    make = Gathered._of

    def counted(self, support, query, means=0):
        rows.append(support.numel() + query.numel())
        return make(self, support, query, means)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gathered, "_of", counted)
        scorers = [
            scorer(head(spec), pair, context, queries=60, memory=memory, kept=shared or Kept())
            for spec in specs
        ]  # so few queries that no table pays
        found = [score(draw) for score in scorers for draw in episodes]
    return found, sum(rows)


@pytest.mark.parametrize("shots", [1, 3])
def test_products_that_another_head_asked_for_are_not_made_again(pair, context, shots):
    asked_of = [drawn(shots), drawn(shots, seed=1)]
    specs = ("nearest", "ridge", "prototypes", "nearest")
    alone, all_rows = answers(specs, asked_of, pair, context, None, 1 << 30)
    together, rows = answers(specs, asked_of, pair, context, Kept(), 1 << 30)
    assert rows == all_rows / len(specs)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_products_that_were_made_take_no_more_memory_than_there_is(pair, context):
    asked_of = [drawn(3, seed=seed) for seed in range(8)]
    each = 4 * (15 * 15 + 15 * 15) * 30
    memory = 2 * (VECTORS + 4 * each)  # some of the eight draws
    shared = Kept()
    alone, all_rows = answers(("nearest", "ridge"), asked_of, pair, context, None, memory)
    together, rows = answers(("nearest", "ridge"), asked_of, pair, context, shared, memory)
    assert all_rows / 2 < rows < all_rows
    assert sum(entry.met.bytes for entry in shared._entries) > 0
    assert sum(entry.bytes for entry in shared._entries) <= memory // 2
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_products_come_back_as_they_were_whatever_became_of_those_handed_out(pair):
    known = Gathered(
        left=pair.support, right=pair.query, numbers=1, square=pair.query.square().sum(1),
        met=Met(lambda: 1 << 20),
    )  # fmt: skip
    episodes = drawn(2)
    support, query = (
        torch.from_numpy(np.ascontiguousarray(x)).flatten(1)
        for x in (episodes.support, episodes.asked)
    )
    given = known.of(support, query)
    first = [x.clone() for x in given]
    for x in (*given, *known.of(support[4:9], query[4:9])):
        x.zero_()
    order = torch.tensor([7, 3, 4, 5, 29, 0])
    for x, expected in zip(known.of(support[order], query[order]), first, strict=True):
        torch.testing.assert_close(x, expected[order], rtol=0, atol=0)
