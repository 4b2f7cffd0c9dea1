"""Products looked up and products made from gathered vectors are the products of the vectors."""

import numpy as np
import pytest
import torch

from learn.fewshot import products as products_module
from learn.fewshot.kept import _table
from learn.fewshot.products import Gathered, index, look_up, of_means, squared_lengths

CLIPS, DIM, EPISODES, SHOTS, QUERIES = 30, 7, 11, 6, 4


@pytest.fixture(params=["all at once", "a row at a time", "two rows at a time"], autouse=True)
def kernels(request, monkeypatch):
    """Products of rows as a large product, and by kernels for small ones."""
    rows = {"all at once": 0, "a row at a time": 1, "two rows at a time": 2}[request.param]
    monkeypatch.setattr(products_module, "_small_kernels", lambda: rows > 0)
    monkeypatch.setattr(products_module, "SMALL", max(1, rows) * QUERIES * DIM)


@pytest.fixture(params=["one side", "two sides"])
def sides(request):
    rng = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, CLIPS, DIM, dtype=torch.float64, generator=rng)
    return (left, left) if request.param == "one side" else (left, right)


@pytest.fixture
def drawn():
    rng = torch.Generator().manual_seed(1)
    return tuple(
        torch.randint(CLIPS, (EPISODES, n), dtype=torch.int32, generator=rng)
        for n in (SHOTS, QUERIES)
    )


def ways(left, right):
    """Every way to the same products: tables, rows for one episode and for three, embedded late."""
    yield _table(left, right, gram=False), _table(left, right, gram=True)
    for numbers in (1, 3 * DIM * (SHOTS + QUERIES), 10**6):
        known = {"right": right, "numbers": numbers}
        yield (Gathered(left=left, **known, square=squared_lengths(right)),) * 2
        late = (lambda x: x / 2, lambda x: x / 2)
        yield (Gathered(left=2 * left, right=2 * right, numbers=numbers, embed=late),) * 2


def test_every_way_gives_the_products(sides, drawn):
    left, right = sides
    support, query = drawn
    s, q = left[support.long()], right[query.long()]
    points = torch.cat([s, q], 1)
    for products, of_points in ways(left, right):
        among, across, square = products.of(support, query)
        torch.testing.assert_close(among, s @ s.mT)
        torch.testing.assert_close(across, q @ s.mT)
        torch.testing.assert_close(square, q.square().sum(-1))
        torch.testing.assert_close(products.of_shots(support), s @ s.mT)
        torch.testing.assert_close(of_points.of_points(support, query), points @ points.mT)


@pytest.mark.parametrize("shots", [1, 2])
def test_means_of_shots_may_stand_in_their_place(sides, drawn, shots):
    left, right = sides
    support, query = drawn[0][:, : 3 * shots], drawn[1]
    means, q = left[support.long()].view(EPISODES, 3, shots, DIM).mean(2), right[query.long()]
    for products, _ in ways(left, right):
        among, across, square = products.of(support, query, means=3)
        torch.testing.assert_close(among.diagonal(dim1=1, dim2=2), means.square().sum(-1))
        torch.testing.assert_close(across, q @ means.mT)
        torch.testing.assert_close(square, q.square().sum(-1))
        told = of_means(*products.of(support, query)[:2], 3)
        torch.testing.assert_close(told[0].diagonal(dim1=1, dim2=2), means.square().sum(-1))
        torch.testing.assert_close(told[1], q @ means.mT)


def test_rows_that_are_written_over_change_nothing_given_before(sides, drawn):
    left, right = sides
    products = Gathered(left=left, right=right, numbers=1)
    first = [x.clone() for x in products.of(*drawn)]
    given = products.of(*drawn)
    products.of(*(1 + x.flip(0) % (CLIPS - 1) for x in drawn))
    for x, y in zip(given, first, strict=True):
        assert torch.equal(x, y)


def test_a_table_is_looked_up_by_row_and_column():
    table = torch.arange(12.0).view(3, 4)
    rows, columns = (index(np.array([x], np.int32)) for x in ([0, 2], [3, 1, 0]))
    assert look_up(table, rows, columns).tolist() == [[[3, 1, 0], [11, 9, 8]]]
