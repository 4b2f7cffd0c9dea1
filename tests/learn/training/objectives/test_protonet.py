"""ProtoNet against the definition, and as a head of its run beside that of prototypes."""

import pytest
import torch
import torch.nn.functional as F

from learn.fewshot.heads import Context
from learn.training.objectives import Batch, ObjectiveContext
from store import plugins
from store.errors import ConfigError

DIM = 6


def build(spec="protonet"):
    sizes = {"visual": DIM}
    context = ObjectiveContext(outputs=sizes, inputs=sizes, classes=("a", "b"), clips=6)
    return plugins.build("learn.training.objectives", spec, context).eval()


def clips(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, DIM, generator=rng, dtype=torch.float64)


def test_the_cost_is_that_of_every_clip_against_the_others_of_its_batch():
    labels, x = torch.tensor([1, 0, 0, 1, 1, 0]), clips(6)
    batch = Batch(embeddings={"visual": x}, labels=labels, clips=torch.arange(6))
    unit = [a / a.norm() for a in x]
    costs = []
    for i in range(6):
        logits = []
        for n in (0, 1):
            shots = [unit[j] for j in range(6) if j != i and labels[j] == n]
            mean = sum(shots) / len(shots)
            logits.append(-3 * ((unit[i] - mean) ** 2).sum())
        costs.append(F.cross_entropy(torch.stack(logits)[None], labels[i : i + 1]))
    objective = build("protonet:scale=3,shots=0")
    torch.testing.assert_close(objective(batch), torch.stack(costs).mean())


def test_its_own_head_is_that_of_prototypes_of_length_one():
    support, query = F.normalize(clips(3, 4, 5), dim=-1), F.normalize(clips(3, 7, seed=1), dim=-1)
    context = Context(modality_dims=(DIM,))
    own = build("protonet:scale=3").head().fit(support, context)(query)
    head = plugins.build("learn.fewshot.heads", "prototypes").fit(support, context)
    torch.testing.assert_close(own, 3 * head(query))


@pytest.mark.parametrize("setting", ["scale=0", "scale=nan", "shots=-1"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        build(f"protonet:{setting}")
