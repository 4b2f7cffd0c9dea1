"""CLAP against PyTorch's optimiser, and what the names of classes are worth to it."""

import pytest
import torch
import torch.nn.functional as F

from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError
from tests.learn.fewshot.heads.named import accuracy, informed, task
from tests.learn.references.clap import literal


def fitted(spec, support, names):
    extra = {} if names is None else {"names": names[:, :, None]}
    context = Context(modality_dims=(support.shape[-1],), extra_shots=extra)
    return plugins.build("learn.fewshot.heads", spec).fit(support, context)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"penalty": 30.0, "scale": 10.0, "length": 3.0},
        {"penalty": 0.0, "steps": 40, "lr": 0.02, "momentum": 0.0},
    ],
)
def test_equals_the_optimiser_of_pytorch(shots, named, settings):
    support, query, _, names = task(shots)
    spec = "clap:" + ",".join(f"{key}={value}" for key, value in settings.items())
    got = fitted(spec.rstrip(":"), support, names if named else None)(query)
    for i in range(len(got)):
        expected = literal(support[i], query[i], names[i] if named else None, **settings)
        torch.testing.assert_close(got[i], expected, rtol=1e-6, atol=1e-8)


def test_no_step_is_the_answer_of_the_names_alone():
    support, query, _, names = task(3)
    got = fitted("clap:steps=0", support, names)(query)
    cosines = F.normalize(query, dim=-1) @ F.normalize(names, dim=-1).mT
    torch.testing.assert_close(got, 100 * cosines)


def test_a_name_that_knows_its_shots_is_left_less_than_one_that_does_not():
    support, _, _, names = task(5)
    names[:, :2] = support[:, :2].mean(2)  # the other two mean nothing
    axes = torch.eye(12, dtype=torch.float64).expand(2, 12, 12)
    weights = fitted("clap:penalty=0.05,scale=20", support, names)(axes).mT
    turned = 1 - F.cosine_similarity(weights, names, dim=-1)
    free = fitted("clap:penalty=0,scale=20", support, names)(axes).mT
    unheld = 1 - F.cosine_similarity(free, names, dim=-1)
    held = turned / unheld
    assert (held[:, :2].amax(1) < held[:, 2:].amin(1)).all()


@pytest.mark.parametrize("shots", [1, 5])
def test_names_that_know_the_classes_help(shots):
    without, with_names = accuracy("clap", informed(shots))
    assert with_names > without + (0.15 if shots == 1 else 0.01)


@pytest.mark.parametrize(
    "setting", ["penalty=-1", "scale=-1", "steps=-1", "lr=nan", "momentum=1", "length=0"]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"clap:{setting}")
