"""GDA in inner products against its D by D definition."""

import pytest
import torch

from learn.fewshot.heads import Context
from learn.fewshot.heads.gda import Config, build
from tests.learn.references.gda import scores


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_differences_of_classes_are_those_of_the_definition(shots):
    rng = torch.Generator().manual_seed(shots)
    support = torch.randn(3, 4, shots, 9, generator=rng, dtype=torch.float64) + 1
    query = torch.randn(3, 7, 9, generator=rng, dtype=torch.float64) + 1
    got = build(Config()).fit(support, Context(modality_dims=(9,)))(query)
    for i in range(3):
        expected = scores(support[i], query[i])
        # One factor and, for each query, one number for all classes change no answer.
        a, b = (x - x.mean(1, keepdim=True) for x in (got[i], expected))
        torch.testing.assert_close(a / a.norm(), b / b.norm())


def test_equal_shots_of_a_class_are_prototypes():
    rng = torch.Generator().manual_seed(0)
    support = torch.randn(2, 3, 1, 5, generator=rng).expand(-1, -1, 4, -1)
    query = torch.randn(2, 6, 5, generator=rng)
    got = build(Config()).fit(support, Context(modality_dims=(5,)))(query)
    nearest = torch.cdist(query, support[:, :, 0]).argmin(-1)
    assert torch.equal(got.argmax(-1), nearest)
