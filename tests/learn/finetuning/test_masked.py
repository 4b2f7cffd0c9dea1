"""Masked autoencoding against literal loops over frames, patches and pixels."""

import pytest
import torch

from learn.finetuning import masked, recipe
from learn.finetuning.masked import Masked, pixels
from learn.finetuning.towers import Loss, Towers
from store.errors import ConfigError
from tests.learn.finetuning.conftest import TinyLearner

SETTINGS = recipe.MaskedSettings(share=0.5, width=8, depth=2, heads=2)
FRAMES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def made(settings=SETTINGS):
    torch.manual_seed(0)
    learner = TinyLearner(patches=True)
    return learner, Masked({"visual": learner}, settings)


@pytest.mark.parametrize("normalise", [True, False])
def test_pixels_are_cut_into_patches(normalise):
    found = pixels(FRAMES, 4, normalise=normalise)
    for b in range(6):
        for row in range(2):
            for column in range(2):
                values = [
                    FRAMES[b, c, 4 * row + y, 4 * column + x].item()
                    for y in range(4)
                    for x in range(4)
                    for c in range(3)
                ]
                if normalise:
                    mean = sum(values) / 48
                    variance = sum((v - mean) ** 2 for v in values) / 47
                    values = [(v - mean) / (variance + 1e-6) ** 0.5 for v in values]
                assert found[b, 2 * row + column].tolist() == pytest.approx(values, abs=1e-5)


def test_the_cost_is_of_hidden_patches_alone():
    learner, cost = made()
    seen = {}
    visible, decode = learner.module.visible, cost.decoder.forward

    def watched(x, kept):
        seen["kept"] = kept
        return visible(x, kept)

    def painted(tokens, kept):
        assert tokens.shape[1] == 3  # the class's, and those of two patches in four
        seen["painted"] = decode(tokens, kept)
        return seen["painted"]

    learner.module.visible, cost.decoder.forward = watched, painted
    found = cost(FRAMES, 5, 0)
    wanted, total = pixels(FRAMES, 4, normalise=True), []
    for b in range(6):
        kept = seen["kept"][b].tolist()
        assert len(set(kept)) == 2
        for p in range(4):
            if p not in kept:
                errors = (seen["painted"][b, p] - wanted[b, p]) ** 2
                total.append(errors.mean().item())
    assert found.item() == pytest.approx(sum(total) / len(total), rel=1e-5)
    assert len({tuple(row) for row in seen["kept"].tolist()}) > 1


def test_what_is_hidden_is_not_seen():
    """Other pixels in hidden patches change what is to be painted and nothing of the painting."""
    learner, cost = made()
    kept = torch.tensor([[0, 3]] * 6)
    other = FRAMES.clone()
    other[:, :, :4, 4:], other[:, :, 4:, :4] = 9, -9
    with torch.no_grad():
        one, two = (cost.decoder(learner.module.visible(x, kept), kept) for x in (FRAMES, other))
    assert torch.equal(one, two)


def test_the_decoder_is_transformer_blocks_written_out():
    learner, cost = made()
    decoder, kept = cost.decoder.eval(), torch.tensor([[2, 1]] * 6)
    with torch.no_grad():
        tokens = learner.module.visible(FRAMES, kept)
        found = decoder(tokens, kept)
        x = tokens @ decoder.embed.weight.T + decoder.embed.bias
        whole = decoder.hidden.expand(6, 5, -1).clone()
        whole[:, 0], whole[:, 1 + 2], whole[:, 1 + 1] = x[:, 0], x[:, 1], x[:, 2]
        x = whole + learner.module.positions(8)
        for block in decoder.blocks:
            y = norm(x, block.norm1)
            q, k, v = (
                y @ w.T + b
                for w, b in zip(
                    block.self_attn.in_proj_weight.chunk(3),
                    block.self_attn.in_proj_bias.chunk(3),
                    strict=True,
                )
            )
            heads = []
            for h in range(2):
                s = slice(4 * h, 4 * h + 4)
                share = (q[..., s] @ k[..., s].transpose(1, 2) / 2).softmax(-1)
                heads.append(share @ v[..., s])
            out = block.self_attn.out_proj
            x = x + torch.cat(heads, -1) @ out.weight.T + out.bias
            y = torch.nn.functional.gelu(norm(x, block.norm2) @ block.linear1.weight.T
                                         + block.linear1.bias)  # fmt: skip
            x = x + y @ block.linear2.weight.T + block.linear2.bias
        expected = norm(x, decoder.norm) @ decoder.paint.weight.T + decoder.paint.bias
    torch.testing.assert_close(found, expected[:, 1:], atol=1e-5, rtol=1e-4)


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + (
        layer.bias
    )


class OfInputs(Loss):
    of_vectors = False

    def __init__(self, cost):
        self.cost = cost

    def of_inputs(self, inputs, start):
        return {"masked": self.cost(inputs["visual"][0], 7, start)}

    def parameters(self):
        return [*self.cost.network.parameters(), *self.cost.decoder.parameters()]


def test_parts_of_a_step_hide_the_same_and_gradients_reach_all_but_positions():
    found = []
    for at_once in (0, 2):
        learner, cost = made()
        settings = recipe.load("mae_unlabelled", ["data.frames=1"])
        towers = Towers(learners={"visual": learner}, recipe=settings, device=torch.device("cpu"))
        learner.module.pos_embed.requires_grad_(False)
        towers.at_once = at_once
        loss = OfInputs(cost)
        terms = towers.backward({"visual": (FRAMES,)}, loss)
        gradients = {n: p.grad for n, p in learner.module.named_parameters()}
        assert gradients.pop("pos_embed") is None
        assert all(p.grad is not None for p in cost.decoder.parameters())
        found.append([terms["masked"], *gradients.values()])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "learners",
    [{}, {"visual": TinyLearner()}, {"audio": TinyLearner("audio")},
     {"visual": TinyLearner(patches=True), "audio": TinyLearner("audio")}],
)  # fmt: skip
def test_other_encoders_are_refused(learners):
    with pytest.raises(ConfigError, match="patch by patch"):
        Masked(learners, SETTINGS)


def test_a_decoder_whose_heads_do_not_share_its_width_is_refused():
    with pytest.raises(ConfigError, match=r"masked\.width=20"):
        recipe.MaskedSettings(width=20, heads=3)
    assert masked.EPSILON == 1e-6
