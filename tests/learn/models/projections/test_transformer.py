import math
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from learn.models import attention
from learn.models.projections import mean_of_rows
from learn.models.projections.transformer import Config, build, since_first_row, sinusoids
from store.errors import ConfigError

SMALL = Config(dim_out=6, width=16, layers=2, heads=2, ffn=24)
PATTERNS = {
    "full": {"attention": "full"},
    "window": {"attention": "window", "reach": 3},
    "dilated": {"attention": "dilated", "reach": 2, "dilation": 3},
    "global_window": {"attention": "global_window", "reach": 3},
    "dilated global_window": {"attention": "global_window", "reach": 2, "dilation": 3},
}
CONFIGS = {
    f"{name} {norm} {pool}": replace(SMALL, norm=norm, pool=pool, **settings)
    for (name, settings), norm, pool in product(PATTERNS.items(), ("pre", "post"), ("cls", "mean"))
    if pool == "mean" or name not in ("window", "dilated")
}
everywhere = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
DIM = 5


def network(config, seed=0):
    torch.manual_seed(seed)
    return build(config, DIM).eval().double()


def clips(count=3, time=150, seed=0):
    """Rows at irregular times; clip i has i times 7 rows fewer than the first."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, time, DIM, generator=generator, dtype=torch.float64)
    seconds = torch.rand(count, time, generator=generator, dtype=torch.float64).cumsum(1) * 0.5
    mask = torch.arange(time) < time - 7 * torch.arange(count)[:, None]
    return rows, mask, seconds


def shuffled(seed, *tensors):
    order = torch.randperm(tensors[0].shape[1], generator=torch.Generator().manual_seed(seed))
    return [x[:, order] for x in tensors]


@everywhere
@pytest.mark.parametrize("junk", [1e30, math.inf, math.nan])
def test_padding_never_changes_the_answer_wherever_it_lies(config, junk):
    net, (rows, mask, seconds) = network(config), clips()
    for i in range(len(rows)):
        length = int(mask[i].sum())
        alone = net(rows[i : i + 1, :length], mask[i : i + 1, :length], seconds[i : i + 1, :length])
        padded = [
            torch.where(mask[i : i + 1, :, None], rows[i : i + 1], junk),
            mask[i : i + 1],
            torch.where(mask[i : i + 1], seconds[i : i + 1], junk),
        ]
        longer = [torch.cat([x, x[:, :40]], 1) for x in padded]
        longer[1][:, -40:] = False
        for given in (padded, longer, shuffled(1, *longer)):
            torch.testing.assert_close(net(*given), alone)


@everywhere
def test_a_clip_does_not_see_its_batch(config):
    net, (rows, mask, seconds) = network(config), clips()
    together = net(rows, mask, seconds)
    rows[1:] = -rows[1:]
    torch.testing.assert_close(net(rows, mask, seconds)[:1], together[:1])


@everywhere
def test_clips_without_rows_get_a_finite_answer_and_gradient(config):
    net, (rows, mask, seconds) = network(config), clips()
    mask[1] = False
    rows[1], seconds[1] = math.nan, math.nan
    net(rows, mask, seconds).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    nothing = net(rows[1:2], mask[1:2], seconds[1:2])
    assert nothing.isfinite().all()
    torch.testing.assert_close(net(rows[:1, :0], mask[:1, :0], seconds[:1, :0]), nothing)


@everywhere
def test_every_entry_of_every_parameter_receives_gradient(config):
    net = network(config)
    net(*clips()).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad.abs() > 1e-12).all(), name


def test_pool_mean_is_the_mean_of_the_rows_without_the_hub():
    net, (rows, mask, seconds) = network(CONFIGS["global_window pre mean"]), clips()
    net.layers, net.head = torch.nn.ModuleList(), torch.nn.Identity()
    token = net.embed(rows) + sinusoids(since_first_row(seconds, mask), SMALL.width)
    want = torch.stack([x[r].mean(0) for x, r in zip(token, mask, strict=True)])
    torch.testing.assert_close(net(rows, mask, seconds), want)
    assert not torch.allclose(net.train()(rows, mask, seconds), want)  # tokens drop out


@everywhere
def test_the_order_of_storage_does_not_matter_but_the_times_do(config):
    net, (rows, mask, seconds) = network(config), clips()
    want = net(rows, mask, seconds)
    torch.testing.assert_close(net(*shuffled(0, rows, mask, seconds)), want)
    shuffled_rows, _ = shuffled(0, rows[:1, :40], mask[:1, :40])
    kept = (mask[:1, :40], seconds[:1, :40])
    assert not torch.allclose(net(shuffled_rows, *kept), net(rows[:1, :40], *kept), atol=1e-4)
    assert not torch.allclose(net(rows, mask, 2 * seconds), want, atol=1e-4)


@everywhere
def test_a_shift_of_all_times_changes_nothing(config):
    net, (rows, mask, seconds) = network(config), clips()
    want = net(rows, mask, seconds)
    torch.testing.assert_close(net(rows, mask, seconds + 17.25), want)
    later = seconds.clone()
    later[:, 1:] += 1.5  # no shift: the first row stays
    assert not torch.allclose(net(rows, mask, later), want, atol=1e-4)


def test_a_position_is_a_time_and_not_a_count():
    """The rows at whole seconds have one code at 1 and at 4 rows a second."""
    mask = torch.ones(1, 33, dtype=torch.bool)
    fine = sinusoids(since_first_row(torch.arange(33.0)[None] / 4, mask), 16)
    coarse = sinusoids(since_first_row(torch.arange(9.0)[None], mask[:, :9]), 16)
    torch.testing.assert_close(fine[:, ::4], coarse)


def test_times_of_a_micro_video_have_codes_apart():
    seconds = torch.arange(0, 30, 0.1)[None]
    code = sinusoids(seconds, 256)[0]
    apart = torch.cdist(code, code) + 9 * torch.eye(len(code))
    assert apart.min() > 0.5
    torch.testing.assert_close(code.square().sum(-1), torch.full_like(code[:, 0], 128.0))


@everywhere
def test_eval_is_deterministic_and_training_drops_out(config):
    net, given = network(replace(config, dropout=0.5)), clips()
    assert torch.equal(net(*given), net(*given))
    net.train()
    assert not torch.equal(net(*given), net(*given))
    torch.manual_seed(5)
    once = net(*given)
    torch.manual_seed(5)
    assert torch.equal(net(*given), once)


@everywhere
def test_every_path_gives_the_answer_of_the_dense_reference(config, monkeypatch):
    net, given = network(config), clips()
    want = net(*given)
    monkeypatch.setattr("learn.models.projections.transformer.attend", attention.dense)
    torch.testing.assert_close(net(*given), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@everywhere
def test_narrow_types_stay_near_and_times_keep_their_precision(config, dtype):
    """Seconds stay float32: 30.1 s in bfloat16 is 30.0 s, a whole turn of the fastest sine."""
    net, (rows, mask, seconds) = network(config), clips()
    want = net(rows, mask, seconds)
    got = net.to(dtype)(rows.to(dtype), mask, seconds.float())
    assert got.dtype == dtype
    assert F.cosine_similarity(got.double(), want).min() > 0.995


def test_each_pattern_takes_a_path_of_its_own():
    paths = {name: network(c).attention_path(150) for name, c in CONFIGS.items() if "pre" in name}
    assert {path for name, path in paths.items() if "full" in name} == {"full"}
    assert {path for name, path in paths.items() if "full" not in name} == {"banded"}
    assert network(CONFIGS["window pre mean"]).attention_path(5) == "masked"
    assert network(CONFIGS["window pre mean"]).attention_path(4) == "full"
    assert network(CONFIGS["global_window pre cls"]).attention_path(4) == "full"


def test_a_window_hides_what_is_out_of_reach():
    """One layer, so that reach is not the reach of a stack."""
    for name, seen in {"full": 150, "window": 7, "dilated": 5}.items():
        net = network(replace(SMALL, layers=1, pool="mean", **PATTERNS[name]))
        (layer,), mask = net.layers, torch.ones(1, 150, dtype=torch.bool)
        x = torch.randn(1, 150, 16, dtype=torch.float64, requires_grad=True)
        layer(x, mask, net.pattern)[0, 45].sum().backward()
        assert int(x.grad.abs().sum(-1).gt(0).sum()) == seen, name


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, dim_out=2, attention="full"),
        replace(SMALL, dim_out=2, attention="full", norm="post"),
        replace(SMALL, dim_out=2, attention="global_window", reach=1),
        replace(SMALL, dim_out=2, attention="window", reach=1, pool="mean"),
    ],
    ids=lambda c: f"{c.attention} {c.norm} {c.pool}",
)
def test_it_learns_an_order_that_a_mean_over_rows_cannot_see(config):
    """Class 0 shows A before B, class 1 the same rows the other way round, at random rates."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(64) % 2
    a, b = torch.randn(2, DIM, generator=generator)
    first = torch.arange(8) < 4
    is_a = first == label[:, None].bool()
    rows = torch.where(is_a[..., None], a, b)
    mask = torch.ones(64, 8, dtype=torch.bool)
    seconds = torch.arange(8.0) * (0.5 + torch.rand(64, 1, generator=generator))
    means = mean_of_rows(rows, mask)
    torch.testing.assert_close(means, means[:1].expand_as(means))  # nothing to learn from

    torch.manual_seed(0)
    net = build(replace(config, dropout=0.0, head_dropout=0.0), DIM)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(80):
        loss = F.cross_entropy(net(rows[:32], mask[:32], seconds[:32]), label[:32])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    unseen = net(rows[32:], mask[32:], seconds[32:]).argmax(1)
    assert (unseen == label[32:]).float().mean() > 0.95


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 30, "heads": 4}, "width=30"),
        ({"layers": 0}, "layers=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"head_dropout": -0.1}, "head_dropout=-0.1"),
        ({"norm": "prae"}, "did you mean 'pre'"),
        ({"pool": "max"}, "pool='max'"),
        ({"attention": "windows", "pool": "mean"}, "did you mean 'window'"),
        ({"attention": "window"}, "pool=mean"),
        ({"attention": "dilated", "dilation": 2}, "global_window"),
        ({"attention": "dilated", "pool": "mean"}, "dilation=1"),
        ({"attention": "window", "dilation": 2, "pool": "mean"}, "dilation=2"),
        ({"attention": "global_window", "reach": -1}, "reach=-1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_a_way_out(settings, said):
    with pytest.raises(ConfigError, match=said):
        Config(**settings)
