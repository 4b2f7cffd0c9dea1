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
    index = VectorIndex(vectors, device=torch.device("cuda", 0))
    assert torch.equal(index.search(asked, 10).indices, by_matmul(vectors, asked, 10).indices)
    assert index.note == ""


class Refusing:
    """An index on a GPU that has no room, or no kernel for so many neighbours."""

    def __init__(self, most):
        self.most, self.asked = most, []

    def add(self, vectors):
        if not self.most:
            raise RuntimeError("Error in void faiss::gpu::…\nout of memory")

    def search(self, queries, k):
        self.asked.append(k)
        raise RuntimeError("Error in GpuIndex.cu:\ngave up")


@pytest.mark.parametrize(("most", "k", "says"), [(0, 5, "out of memory"), (2048, 2500, ""),
                                                 (2048, 5, "gave up")])  # fmt: skip
def test_what_a_gpu_does_not_take_a_processor_does(most, k, says, monkeypatch):
    """It was a crash: exit 101."""
    import faiss

    from learn.inference import vector_index

    built = []
    vector_index._gpu_resources.cache_clear()
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: built.append(1), raising=False)
    gpu = Refusing(most)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *_: gpu, raising=False)
    vectors, asked = unit(3000, 8), unit(4, 8, seed=1)
    card = torch.device("cuda", 0)
    for _ in range(2):
        index = VectorIndex(vectors, device=card)
        found = index.search(asked, k)
    assert torch.equal(found.indices, by_matmul(vectors, asked, k).indices)
    assert says in index.note
    assert built == [1]  # scratch memory is shared
    assert all(n <= 2048 for n in gpu.asked)
    vector_index._gpu_resources.cache_clear()


def test_no_gpu_is_taken_unasked(monkeypatch):
    import faiss

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", None, raising=False)
    VectorIndex(unit(10, 4)).search(unit(2, 4), 3)
