"""LP++ against PyTorch's optimiser, and what the names of classes are worth to it."""

import pytest
import torch

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError
from tests.learn.fewshot.heads.named import accuracy, informed, task
from tests.learn.references.lp_plus_plus import literal


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"blend": 5.0, "steps": 25, "momentum": 0.5}, {"blend": 0.0, "alpha_every": 1}]
)
def test_equals_the_optimiser_of_pytorch(shots, named, settings):
    support, query, _, names = task(shots)
    spec = "lp_plus_plus:" + ",".join(f"{key}={value}" for key, value in settings.items())
    extra = {"names": names[:, :, None]} if named else {}
    head = plugins.build("learn.fewshot.heads", spec.rstrip(":"))
    got = head.fit(support, Context(modality_dims=(12,), extra_shots=extra))(query)
    for i in range(len(got)):
        expected = literal(support[i], query[i], names[i] if named else None, **settings)
        torch.testing.assert_close(got[i], expected, rtol=1e-6, atol=1e-8)


def test_alpha_moves_at_every_so_manieth_step():
    support, query, _, names = task(3)
    context = Context(modality_dims=(12,), extra_shots={"names": names[:, :, None]})

    def scores(every):
        spec = f"lp_plus_plus:blend=1,steps=9,alpha_every={every}"
        return plugins.build("learn.fewshot.heads", spec).fit(support, context)(query)

    assert torch.equal(scores(10), scores(11))
    assert not torch.allclose(scores(9), scores(10))


def test_a_name_that_is_all_zeros_is_no_name():
    """There is then nothing to blend, and no rate to blend it at."""
    support, query, _, names = task(2)
    head = plugins.build("learn.fewshot.heads", "lp_plus_plus")
    nothing = {"names": torch.zeros_like(names)[:, :, None]}
    got = head.fit(support, Context(modality_dims=(12,), extra_shots=nothing))(query)
    assert torch.equal(got, head.fit(support, Context(modality_dims=(12,)))(query))


@pytest.mark.parametrize("shots", [1, 5])
def test_names_that_know_the_classes_help(shots):
    without, with_names = accuracy("lp_plus_plus", informed(shots))
    assert with_names > without + (0.15 if shots == 1 else 0.01)


@pytest.mark.parametrize("setting", ["blend=-1", "steps=-1", "alpha_every=0", "momentum=1"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"lp_plus_plus:{setting}")
