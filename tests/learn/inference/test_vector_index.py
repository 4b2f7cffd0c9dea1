"""An index gives what a matrix product gives, ties included; an approximate one its recall."""

import pytest
import torch
import torch.nn.functional as F

from learn.inference.vector_index import Inverted, VectorIndex, by_matmul, parse_index
from store.errors import ConfigError


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize(("size", "k"), [(1, 5), (7, 7), (300, 1), (300, 10), (5000, 64)])
@pytest.mark.parametrize("queries", [1, 30])  # FAISS multiplies few and many queries differently
def test_equal_to_the_matrix_product(size, k, queries):
    vectors, asked = unit(size, 48), unit(queries, 48, seed=1)
    neighbours, true = VectorIndex(vectors).search(asked, k), by_matmul(vectors, asked, k)
    assert torch.equal(neighbours.indices, true.indices)
    torch.testing.assert_close(neighbours.scores, true.scores, atol=2e-6, rtol=0)


@pytest.mark.parametrize("copies", [3, 40, 3000])  # within what is fetched beyond k, and beyond it
@pytest.mark.parametrize("queries", [1, 30])
def test_the_first_of_equals_wins(copies, queries):
    """Copies score alike, so their order is that of their places, at the edge of k too."""
    base = unit(6, 33)
    vectors = base.repeat(copies, 1)
    neighbours = VectorIndex(vectors).search(unit(queries, 33, seed=2), 5)
    best = by_matmul(base, unit(queries, 33, seed=2), 6).indices
    expected = (torch.arange(copies) * 6 + best[..., None]).flatten(1)[:, :5]
    assert torch.equal(neighbours.indices, expected)


def test_no_query_and_fewer_vectors_than_asked():
    neighbours = VectorIndex(unit(3, 8)).search(torch.empty(0, 8), 5)
    assert neighbours.scores.shape == neighbours.indices.shape == (0, 3)


def test_an_approximate_index_measures_its_recall():
    vectors, asked = unit(2000, 16), unit(200, 16, seed=1)
    few, all_cells = (VectorIndex(vectors, Inverted(cells=50, probes=p)) for p in (1, 50))
    assert all_cells.recall(asked, 10) == 1
    hits = few.search(asked, 10).indices
    true = by_matmul(vectors, asked, 10).indices
    counted = sum(len(set(a) & set(b)) for a, b in zip(hits.tolist(), true.tolist(), strict=True))
    assert few.recall(asked, 10) == pytest.approx(counted / 2000)
    assert 0.02 < few.recall(asked, 10) < 0.9


def test_what_an_index_may_be():
    assert parse_index("exact") is None
    assert parse_index("ivf:probes=3") == Inverted(probes=3)
    for bad in ("ivff", "exact:probes=3", "ivf:probes=0", "ivf:lists=3", "ivf:probes=x"):
        with pytest.raises(ConfigError):
            parse_index(bad)


@pytest.mark.gpu
def test_an_index_on_a_gpu_gives_the_same():
    import faiss

    assert faiss.get_num_gpus()
    vectors, asked = unit(5000, 48), unit(300, 48, seed=1)
    assert torch.equal(
        VectorIndex(vectors).search(asked, 10).indices, by_matmul(vectors, asked, 10).indices
    )
