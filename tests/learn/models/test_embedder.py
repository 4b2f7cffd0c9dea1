import numpy as np
import torch

from learn.data.rows import Rows
from learn.models.embedder import Embedder, Tower
from learn.training.recipe import load
from store import plugins

EVERY = torch.arange(4)
LINEAR = plugins.Spec("linear", {"dim_out": 5, "residual": False, "dropout": 0.0})


def rows(scale=1.0, shift=0.0):
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * scale + shift
    values[:, 3] = shift  # never varies
    offsets = torch.tensor([0, 0, 10, 11, 50])
    return Rows(values=values.half(), offsets=offsets, seconds=torch.zeros(50))


def test_mean_and_deviation_are_those_of_the_rows():
    tower = Tower(LINEAR, 4)
    tower.measure(rows(3.0, 200.0))
    values = rows(3.0, 200.0).values.double().numpy()
    np.testing.assert_allclose(tower.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(tower.deviation[:3], values.std(0)[:3], rtol=1e-5)
    assert tower.deviation[3] == 1


def test_features_of_any_scale_come_out_alike():
    torch.manual_seed(0)
    tower = Tower(LINEAR, 4)
    tower.measure(rows())
    plain = tower(rows().padded(EVERY))
    tower.measure(rows(64.0))
    torch.testing.assert_close(tower(rows(64.0).padded(EVERY)), plain, rtol=1e-3, atol=1e-3)


def test_all_clips_are_embedded_in_order(monkeypatch):
    recipe = load("infonce", ("projection.dropout=0.5",))
    space = Embedder({"audio": recipe.projection["audio"]}, None, {"audio": 4})
    space.of("audio").measure(rows())
    together = space.embed({"audio": rows()})["audio"]
    assert together.shape == (4, space.outputs["audio"])
    monkeypatch.setattr("learn.models.embedder.CLIPS_AT_ONCE", 1)
    torch.testing.assert_close(space.embed({"audio": rows()})["audio"], together)


def test_a_residual_space_is_as_alike_as_stored_rows_are_before_training():
    """Each modality keeps its own likeness, and is unlike the other one."""
    generator = torch.Generator().manual_seed(0)
    values = {m: torch.randn(60, d, generator=generator) for m, d in (("visual", 6), ("audio", 4))}
    stored = {
        m: Rows(values=x.half(), offsets=torch.arange(61), seconds=torch.zeros(60))
        for m, x in values.items()
    }
    for name in ("linear", "mlp"):
        same = plugins.Spec(name, {"dim_out": 0})
        space = Embedder({"visual": same, "audio": same}, None, {"visual": 6, "audio": 4})
        space.measure(stored)
        found = space.embed(stored)
        for m, x in found.items():
            centred = stored[m].means() - stored[m].means().mean(0)
            products = centred @ centred.T
            torch.testing.assert_close(x @ x.T / (x @ x.T).trace(), products / products.trace())
        assert not (found["visual"] @ found["audio"].T).any()
        small = Embedder({"visual": plugins.Spec(name, {"dim_out": 3})}, None, {"visual": 6})
        small.measure({"visual": stored["visual"]})
        centred = (stored["visual"].means() - stored["visual"].means().mean(0)).double()
        values_of = torch.linalg.eigvalsh(centred.T @ centred).flip(0)
        kept = small.embed({"visual": stored["visual"]})["visual"].double()
        ratio = torch.linalg.eigvalsh(kept.T @ kept).flip(0) / values_of[:3]
        torch.testing.assert_close(ratio, ratio[:1].expand(3), rtol=1e-3, atol=0)
