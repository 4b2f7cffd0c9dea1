import math

import pytest
import torch
import torch.nn.functional as F

from learn.models.projections import mean_of_rows
from learn.models.projections.attention_pool import Config, build
from store.errors import ConfigError

DIM = 5
SMALL = Config(dim_out=6, queries=3, width=8)


def network(config=SMALL):
    torch.manual_seed(0)
    return build(config, DIM).eval().double()


def clips():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 12, DIM, generator=generator, dtype=torch.float64)
    mask = torch.arange(12) < torch.tensor([[12], [7], [1]])
    return rows, mask, torch.arange(12.0, dtype=torch.float64).expand(3, 12)


def test_it_is_the_sum_over_real_rows_written_as_a_loop():
    net, (rows, mask, seconds) = network(), clips()
    want = []
    for clip, is_real in zip(rows, mask, strict=True):
        kept = clip[is_real]
        pooled = []
        for query in net.queries:
            score = torch.stack([query @ net.to_keys(row) / 8**0.5 for row in kept])
            share = score.exp() / score.exp().sum()
            pooled.append(sum(w * net.to_values(row) for w, row in zip(share, kept, strict=True)))
        want.append(net.output(torch.cat(pooled)))
    torch.testing.assert_close(net(rows, mask, seconds), torch.stack(want))


def test_with_queries_of_zero_it_is_the_mean_over_rows():
    net, (rows, mask, seconds) = network(), clips()
    torch.nn.init.zeros_(net.queries)
    mean = net.to_values(mean_of_rows(rows, mask))
    torch.testing.assert_close(net(rows, mask, seconds), net.output(mean.repeat(1, 3)))


@pytest.mark.parametrize("junk", [1e30, math.inf, math.nan])
def test_padding_never_changes_the_answer_and_weighs_nothing(junk):
    net, (rows, mask, seconds) = network(), clips()
    spoilt = rows.masked_fill(~mask[..., None], junk)
    torch.testing.assert_close(net(spoilt, mask, seconds), net(rows, mask, seconds))
    weights = net.weights(spoilt, mask)
    assert not weights.masked_select(~mask[:, None]).any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3, dtype=torch.float64))


def test_clips_without_rows_pool_to_zeros_and_leave_gradients_finite():
    net, (rows, mask, seconds) = network(), clips()
    rows[1], mask[1] = math.nan, False
    out = net(rows, mask, seconds)
    torch.testing.assert_close(out[1], net.output.bias)
    torch.testing.assert_close(net(rows[:, :0], mask[:, :0], seconds[:, :0])[1], out[1])
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_every_entry_of_every_parameter_receives_gradient():
    net = network()
    net(*clips()).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad.abs() > 1e-12).all(), name


def test_training_drops_out_and_eval_does_not():
    net, given = network(), clips()
    assert torch.equal(net(*given), net(*given))
    net.train()
    assert not torch.equal(net(*given), net(*given))


def test_float16_stays_near():
    net, (rows, mask, seconds) = network(), clips()
    want = net(rows, mask, seconds)
    got = net.half()(rows.half(), mask, seconds)
    assert got.dtype == torch.float16
    assert F.cosine_similarity(got.double(), want).min() > 0.999


def test_it_finds_the_one_row_that_tells_where_a_mean_drowns_it():
    """A marked row holds the sign; eleven loud others hide it from the mean."""
    generator = torch.Generator().manual_seed(0)
    rows = 3 * torch.randn(256, 12, DIM, generator=generator)
    label = torch.arange(256) % 2
    row = torch.randint(12, (256,), generator=generator)
    rows[..., 0] = -4
    rows[torch.arange(256), row, 0] = 4
    rows[torch.arange(256), row, 1] = 2.0 * label - 1
    mask, seconds = torch.ones(256, 12, dtype=torch.bool), torch.zeros(256, 12)
    torch.manual_seed(0)
    net = build(Config(dim_out=2, queries=1, width=8, dropout=0.0), DIM)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-2)
    for _ in range(150):
        loss = F.cross_entropy(net(rows[:128], mask[:128], seconds[:128]), label[:128])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen = net(rows[128:], mask[128:], seconds[128:]).argmax(1)
    assert (unseen == label[128:]).float().mean() > 0.95
    mean = mean_of_rows(rows, mask)[:, 1]
    assert ((mean > 0).long() == label).float().mean() < 0.7


@pytest.mark.parametrize(
    "settings", [{"dim_out": 0}, {"queries": 0}, {"width": -1}, {"dropout": 1.0}]
)
def test_a_setting_that_makes_no_sense_is_refused(settings):
    ((key, value),) = settings.items()
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        Config(**settings)
