"""Objectives that compare clips with class names, beside literal twins and worked examples."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learn.data.rows import Padded
from learn.training.objectives import (
    Batch,
    ObjectiveContext,
    Texts,
    avca,
    avgzslnet,
    cjme,
    cross_modal_probe,
    tcaf,
)
from learn.training.objectives._texts import of_another_class
from store.errors import ConfigError

B, E, C, W = 10, 6, 4, 5
SIZES = {"visual": E, "audio": E}
CLIPS = ("audio", "visual")


def texts():
    return torch.randn(C, W, generator=torch.Generator().manual_seed(9))


def context(**changes):
    facts = {
        "outputs": SIZES, "inputs": {"visual": 7, "audio": 3}, "classes": tuple("abcd"),
        "clips": B, "texts": texts(), "hidden": {"visual.before": 8, "audio.before": 8},
    }  # fmt: skip
    return ObjectiveContext(**{**facts, **changes})


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    counts = {"visual": torch.randint(1, 4, (B,), generator=g), "audio": torch.ones(B).long()}
    inputs = {}
    for m, size in (("visual", 7), ("audio", 3)):
        mask = torch.arange(3) < counts[m][:, None]
        inputs[m] = Padded(
            torch.randn(B, 3, size, generator=g) * mask[..., None], mask, torch.zeros(B, 3)
        )
    return Batch(
        embeddings={m: torch.randn(B, E, generator=g) for m in SIZES},
        labels=torch.tensor([0, 1, 2, 3, 0, 1, 2, 0, 0, 1]),
        clips=torch.arange(B),
        inputs=inputs,
        hidden={f"{m}.before": torch.randn(B, 8, generator=g) for m in SIZES},
        seed=5,
    )


def built(module, **settings):
    torch.manual_seed(1)
    return module.build(module.Config(**settings), context()).eval()


def triplet(a, p, n, margin):
    return max(0.0, float((a - p).norm() - (a - n).norm() + margin))


def mse(left, right):
    return float(((left - right) ** 2).mean())


def agree(objective, batch, expected):
    terms = objective.terms(batch)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4, abs=1e-5), name


def partners(batch):
    other, has_negative = of_another_class(batch)
    assert has_negative.all()
    assert (batch.labels[other] != batch.labels).all()
    return other.tolist()


# ── twins ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("relu_out", [False, True])
@torch.no_grad()
def test_cjme_is_its_formula(batch, relu_out):
    objective = built(cjme, margin=0.7, tie=0.01, agree=0.5, attend=2.0, relu_out=relu_out)
    assert bool((objective.embed_texts(texts()) < 0).any()) != relu_out
    names, other = objective.embed_texts(texts()), partners(batch)
    a, v = batch.embeddings["audio"], batch.embeddings["visual"]
    costs, weights, wanted = [], [], []
    for i, label in enumerate(batch.labels.tolist()):
        means = [
            batch.inputs[m].rows[i][batch.inputs[m].mask[i]].mean(0) for m in ("audio", "visual")
        ]
        share = torch.sigmoid(objective.attention(torch.cat(means)[None]))[0, 0].item()
        doubts = []
        for x in (a[i], v[i]):
            p = torch.softmax(names @ x, 0).double().numpy()
            doubts.append(-(p * np.log(p)).sum())
        surer = (
            0.0 if doubts[0] < doubts[1] - 0.01 else 1.0 if doubts[1] < doubts[0] - 0.01 else 0.5
        )
        text, n = names[label], other[i]
        costs.append(
            (1 - share) * triplet(text, a[i], a[n], 0.7) + share * triplet(text, v[i], v[n], 0.7)
        )
        weights.append(share)
        wanted.append(surer)
    assert len(set(wanted)) > 1, "the example has clips of one kind only"
    expected = {
        "triplet": np.mean(costs),
        "agree": 0.5 * mse(a, v),
        "attend": 2.0 * np.mean((np.array(weights) - wanted) ** 2),
    }
    agree(objective, batch, expected)


@torch.no_grad()
def test_avgzslnet_is_its_formula(batch):
    objective = built(avgzslnet, margin=0.7, rebuild=0.5, decoded=2.0)
    names, other = objective.embed_texts(texts()), partners(batch)
    plain, rebuilt, decoded = [], [], []
    for i, label in enumerate(batch.labels.tolist()):
        n, text, word = other[i], names[label], F.normalize(texts()[label], dim=0)
        cost = behind = 0.0
        far = [dec(objective, text) - word]
        for m in ("audio", "visual"):
            x, wrong = batch.embeddings[m][i], batch.embeddings[m][n]
            cost += triplet(text, x, wrong, 0.7)
            cost += triplet(x, text, names[batch.labels[n]], 0.7)
            behind += triplet(dec(objective, text), dec(objective, x), dec(objective, wrong), 0.7)
            far.append(dec(objective, x) - word)
        plain.append(cost)
        decoded.append(behind)
        rebuilt.append(sum(float(one.norm()) for one in far))
    expected = {
        "triplet": np.mean(plain),
        "rebuild": 0.5 * np.mean(rebuilt),
        "decoded": 2.0 * np.mean(decoded),
    }
    agree(objective, batch, expected)


def dec(objective, x):
    return F.normalize(objective.decoder(x[None])[0], dim=0)


@pytest.mark.parametrize("decoder", ["relu", "linear"])
@torch.no_grad()
def test_avca_is_its_formula(batch, decoder):
    objective = built(avca, margin=0.7, extra=0.5, reg=2.0, decoder=decoder)
    assert bool((objective.decoder(batch.embeddings["audio"]) < 0).any()) == (decoder == "linear")
    names, other = objective.embed_texts(texts()), partners(batch)
    words, text = texts()[batch.labels], names[batch.labels]
    rec = mse(objective.decoder(text), words)
    reg = cross = near = extra = 0.0
    for m in ("audio", "visual"):
        x = batch.embeddings[m]
        rho, rho_w = objective.decoder(x), objective.decoder(text)
        rec += mse(rho, words)
        reg += mse(x, text) + mse(objective.back[m](x), batch.hidden[f"{m}.before"])
        for i, n in enumerate(other):
            cross += triplet(rho_w[i], rho[i], rho[n], 0.7) / B
            near += triplet(text[i], x[i], x[n], 0.7) / B + triplet(x[i], text[i], text[n], 0.7) / B
            extra += (
                triplet(x[i], text[i], x[n], 0.7) / B + triplet(text[i], x[i], text[n], 0.7) / B
            )
    expected = {"rec": rec, "cross": cross, "text": near, "extra": 0.5 * extra, "reg": 2.0 * reg}
    agree(objective, batch, expected)


@pytest.mark.parametrize("decoders", [1, 2])
@torch.no_grad()
def test_tcaf_is_its_formula(batch, decoders):
    objective = built(tcaf, reg=0.5, rec=2.0, decoders=decoders)
    names = objective.embed_texts(texts())
    ce = reg = 0.0
    of_texts = objective.decoder if decoders == 1 else objective.text_decoder
    rec = mse(of_texts(names[batch.labels]), texts()[batch.labels])
    for x in batch.embeddings.values():
        reg += mse(x, names[batch.labels])
        rec += mse(objective.decoder(x), texts()[batch.labels])
        for i, label in enumerate(batch.labels.tolist()):
            logits = (names @ x[i]).double().numpy()
            ce += (np.log(np.exp(logits).sum()) - logits[label]) / B
    agree(objective, batch, {"ce": ce, "reg": 0.5 * reg, "rec": 2.0 * rec})


@pytest.mark.parametrize("unit_weights", [False, True])
@torch.no_grad()
def test_the_probe_is_its_formula(batch, unit_weights):
    objective = built(cross_modal_probe, scale=3.0, text=0.5, unit_weights=unit_weights)

    def cost(x, label):
        w = objective.weight
        length = [float(w[c].norm()) if unit_weights else 1.0 for c in range(C)]
        cosines = [float(x @ w[c] / (x.norm() * length[c])) for c in range(C)]
        logits = 3.0 * np.array(cosines)
        return np.log(np.exp(logits).sum()) - logits[label]

    expected = {
        m: np.mean([cost(x[i], k) for i, k in enumerate(batch.labels.tolist())]) / 2
        for m, x in batch.embeddings.items()
    }
    mapped = objective.embed_texts(texts())
    expected["text"] = 0.5 * np.mean([cost(mapped[c], c) for c in range(C)])
    agree(objective, batch, expected)


# ── worked examples ──────────────────────────────────────────────────────────────────────────────


class Plain(torch.nn.Module):
    """Texts as they are."""

    def forward(self, x):
        return x


def toy(module, **settings):
    """Two classes whose texts are the axes, one clip each; texts pass as they are."""
    facts = context(
        outputs={"visual": 2, "audio": 2}, inputs={"visual": 2, "audio": 2}, classes=("a", "b"),
        clips=2, texts=torch.eye(2), hidden={},
    )  # fmt: skip
    torch.manual_seed(0)
    objective = module.build(module.Config(**settings), facts).eval()
    objective.text = Plain()
    rows = torch.zeros(2, 1, 2)
    inputs = {m: Padded(rows, torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1)) for m in SIZES}
    batch = Batch(
        embeddings={"visual": torch.eye(2), "audio": torch.eye(2)}, labels=torch.arange(2),
        clips=torch.arange(2), inputs=inputs,
    )  # fmt: skip
    return objective, batch


def test_cjme_of_clips_that_lie_on_their_texts():
    """Triplets cost margin - sqrt 2; alpha is 1/2 before anything is learnt of all-zero inputs."""
    objective, batch = toy(cjme, margin=2.0)
    torch.nn.init.zeros_(objective.attention[1].bias)
    terms = objective.terms(batch)
    assert terms["triplet"].item() == pytest.approx(2 - 2**0.5, abs=1e-5)
    assert terms["agree"].item() == 0
    assert terms["attend"].item() == pytest.approx(0)  # both as sure as the other: 1/2 is wanted
    wrong = {m: x.flip(0) for m, x in batch.embeddings.items()}
    cost = objective.terms(replace(batch, embeddings=wrong))["triplet"]
    assert cost.item() == pytest.approx(2 + 2**0.5, abs=1e-5)


def test_tcaf_of_clips_that_lie_on_their_texts():
    objective, batch = toy(tcaf)
    terms = objective.terms(batch)
    assert terms["ce"].item() == pytest.approx(2 * np.log(1 + np.exp(-1)), abs=1e-6)
    assert terms["reg"].item() == 0


def test_avgzslnet_and_avca_of_clips_that_lie_on_their_texts():
    for module, name in ((avgzslnet, "triplet"), (avca, "text")):
        objective, batch = toy(module, margin=2.0)
        assert objective.terms(batch)[name].item() == pytest.approx(4 * (2 - 2**0.5), abs=1e-5)


def test_the_probe_starts_at_the_texts_if_it_can():
    objective, batch = toy(cross_modal_probe, scale=10.0)
    torch.testing.assert_close(objective.weight.detach(), torch.eye(2))
    expected = np.log(1 + np.exp(-10))
    assert objective.terms(batch)["text"].item() == pytest.approx(expected, rel=1e-3)
    without = cross_modal_probe.build(cross_modal_probe.Config(), context(texts=None)).eval()
    assert "text" not in without.terms(replace(batch, embeddings={"visual": torch.ones(2, E)}))


# ── what they need ───────────────────────────────────────────────────────────────────────────────


def test_texts_are_asked_for():
    for module in (cjme, avgzslnet, avca, tcaf):
        with pytest.raises(ConfigError, match="give their vectors as `labels`"):
            module.build(module.Config(), context(texts=None))
        assert isinstance(module.build(module.Config(), context()), Texts)


def test_both_modalities_are_asked_for():
    for module in (cjme, avgzslnet, avca):
        with pytest.raises(ConfigError, match="visual and audio"):
            module.build(module.Config(), context(outputs={"visual": E}))


def test_avca_goes_without_what_a_network_does_not_show(batch):
    objective = avca.build(avca.Config(), context(hidden={})).eval()
    assert not objective.back
    assert objective(replace(batch, hidden={})).isfinite()
