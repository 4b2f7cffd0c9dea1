from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from learn.models import attention
from learn.models.attention import Pattern, attend, banded, dense, full, masked, path
from store.errors import ConfigError

PATTERNS = {
    "full": Pattern(),
    "window": Pattern(one_sided_window=3),
    "dilated": Pattern(one_sided_window=3, dilation=4),
    "window and global token": Pattern(one_sided_window=3, global_tokens=1),
}
WINDOWED = [name for name in PATTERNS if name != "full"]

patterns = st.builds(
    Pattern,
    one_sided_window=st.integers(0, 40),
    dilation=st.integers(1, 70),
    global_tokens=st.integers(0, 3),
) | st.just(Pattern())


def inputs(tokens, share_real=1.0, seed=0, dtype=torch.float64, clips=2):
    """q, k, v that want gradients, a mask, and a gradient to send back."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v, pull = torch.randn(4, clips, 2, tokens, 4, dtype=dtype, generator=generator)
    mask = torch.rand(clips, tokens, generator=generator) < share_real
    return [x.clone().requires_grad_() for x in (q, k, v)], mask, pull


def answer(way, qkv, mask, pattern, pull):
    """The values of `way`, and its gradients."""
    out = way(*qkv, mask, pattern)
    return (out.detach(), *torch.autograd.grad(out, qkv, pull))


def ways(pattern):
    return [attend, masked, full if pattern.one_sided_window is None else banded]


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 150),
    pattern=patterns,
    share_real=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 999),
)
@example(tokens=1, pattern=Pattern(one_sided_window=0, global_tokens=3), share_real=1.0, seed=0)
@example(tokens=131, pattern=Pattern(one_sided_window=0), share_real=0.7, seed=0)
@example(tokens=9, pattern=Pattern(one_sided_window=40), share_real=0.7, seed=0)
@example(tokens=37, pattern=Pattern(one_sided_window=2, dilation=64), share_real=0.7, seed=0)
@example(
    tokens=150,
    pattern=Pattern(one_sided_window=5, dilation=3, global_tokens=2),
    share_real=0.0,
    seed=0,
)
def test_every_fast_form_equals_the_dense_one_in_values_and_gradients(
    tokens, pattern, share_real, seed
):
    qkv, mask, pull = inputs(tokens, share_real, seed)
    want = answer(dense, qkv, mask, pattern, pull)
    for way in ways(pattern):
        torch.testing.assert_close(answer(way, qkv, mask, pattern, pull), want)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("tokens", [7, 129])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_narrow_types_stay_near_the_dense_answer_in_float64(pattern, tokens, dtype, tolerance):
    qkv, mask, pull = inputs(tokens, share_real=0.8)
    narrow = [x.detach().to(dtype).requires_grad_() for x in qkv]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    pull = pull.to(dtype)
    want = answer(dense, wide, mask, pattern, pull.double())
    for way in (dense, *ways(pattern)):
        got = answer(way, narrow, mask, pattern, pull)
        assert {x.dtype for x in got} == {dtype}
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g.double(), w, rtol=0, atol=tolerance * w.abs().max().item())


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_scores_beyond_float16_do_not_overflow(pattern):
    """q · k = 4 * 300^2 is past 65,504, float16's largest number."""
    (q, k, v), mask, _ = inputs(100, dtype=torch.float16)
    q, k = torch.full_like(q, 300), torch.full_like(k, 300)
    for way in (dense, *ways(pattern)):
        out = way(q, k, v, mask, pattern)
        assert out.isfinite().all()
        want = dense(q.double(), k.double(), v.double(), mask, pattern)
        torch.testing.assert_close(out.double(), want, rtol=0, atol=2e-2)


@pytest.mark.parametrize("junk", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_padding_is_never_seen_whatever_it_holds(pattern, junk):
    qkv, mask, pull = inputs(90, share_real=0.6)
    mask[1] = False  # a clip of padding only
    spoilt = [torch.where(mask[:, None, :, None], x.detach(), junk).requires_grad_() for x in qkv]
    for way in (dense, *ways(pattern)):
        got, want = answer(way, spoilt, mask, pattern, pull), answer(way, qkv, mask, pattern, pull)
        torch.testing.assert_close(got, want, rtol=0, atol=0)
        for x in got:
            assert not x[1].any()
            assert not x.masked_select(~mask[:, None, :, None]).any()


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_no_kernel_is_asked_for_a_query_that_sees_nobody(pattern, monkeypatch):
    """What comes of such a query, zero or NaN, depends on kernel, device and release."""
    asked, kernel = [], F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask):
        asked.append(attn_mask.any(-1).all())
        return kernel(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    for share_real in (0.0, 0.5):
        qkv, mask, _ = inputs(90, share_real)
        for way in ways(pattern):
            way(*qkv, mask, pattern)
    assert len(asked) >= 4
    assert all(asked)


def test_a_one_sided_window_counts_neighbours_on_each_side():
    """Written out by hand, so that the reference itself is held to something."""
    seen = {
        name: Pattern(**settings).visible(7)[3].int().tolist()
        for name, settings in {
            "full": {},
            "self": {"one_sided_window": 0},
            "window": {"one_sided_window": 2},
            "dilated": {"one_sided_window": 1, "dilation": 3},
            "window and global token": {"one_sided_window": 1, "global_tokens": 1},
        }.items()
    }
    assert seen == {
        "full": [1, 1, 1, 1, 1, 1, 1],
        "self": [0, 0, 0, 1, 0, 0, 0],
        "window": [0, 1, 1, 1, 1, 1, 0],
        "dilated": [1, 0, 0, 1, 0, 0, 1],
        "window and global token": [1, 0, 1, 1, 1, 0, 0],
    }
    assert Pattern(one_sided_window=1, global_tokens=1).visible(7)[0].all()


def test_the_dense_answer_is_the_mean_of_what_is_seen_when_all_keys_are_alike():
    v = torch.arange(6.0).view(1, 1, 6, 1)
    mask = torch.tensor([[True, True, True, True, True, False]])
    out = dense(torch.ones_like(v), torch.ones_like(v), v, mask, Pattern(one_sided_window=1))
    torch.testing.assert_close(out.flatten(), torch.tensor([0.5, 1.0, 2.0, 3.0, 3.5, 0.0]))


class Sizes(TorchDispatchMode):
    """Notes the size of every tensor that any operation makes, forwards and backwards."""

    def __init__(self):
        super().__init__()
        self.sizes = [0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.sizes += [x.untyped_storage().nbytes() for x in tensors]  # views count what they hold
        return out


def cost(way, pattern, tokens):
    """Largest tensor in bytes, and multiply-adds with every product spelt out."""
    qkv, mask, pull = inputs(tokens, share_real=0.9, dtype=torch.float32, clips=1)
    with Sizes() as noted:
        answer(way, qkv, mask, pattern, pull)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        answer(way, qkv, mask, pattern, pull)
    return max(noted.sizes), counted.get_total_flops()


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_cost_memory_and_work_linear_in_time(name):
    bytes_, flops = zip(
        *(cost(attend, PATTERNS[name], T) for T in (512, 1024, 2048, 4096)), strict=True
    )
    for costs in (bytes_, flops):
        for less, more in pairwise(costs):
            assert 1.9 < more / less < 2.1, costs
    assert bytes_[-1] < 4096 * 4096 / 2  # no T x T table, not even of bits in bytes


def test_the_meter_sees_what_the_dense_form_costs():
    short, long = cost(dense, PATTERNS["window"], 256), cost(dense, PATTERNS["window"], 512)
    assert all(3.9 < more / less < 4.1 for less, more in zip(short, long, strict=True))


def test_full_attention_keeps_no_table():
    qkv, mask, pull = inputs(2048, dtype=torch.float32, clips=1)
    with Sizes() as noted:
        answer(attend, qkv, mask, Pattern(), pull)
    assert max(noted.sizes) < 2048 * 2048 / 2


@pytest.mark.parametrize(
    ("pattern", "tokens", "way"),
    [
        (Pattern(), 4096, "full"),
        (Pattern(one_sided_window=5), 6, "full"),
        (Pattern(one_sided_window=5), 7, "masked"),
        (Pattern(one_sided_window=5), 200, "banded"),
        (Pattern(one_sided_window=5, dilation=2), 6, "masked"),
        (Pattern(one_sided_window=5, dilation=2, global_tokens=1), 200, "banded"),
        (Pattern(one_sided_window=0, dilation=1000), 128, "masked"),
        (Pattern(one_sided_window=0, dilation=1000), 129, "banded"),
        (Pattern(one_sided_window=64), 255, "masked"),
        (Pattern(one_sided_window=64), 256, "banded"),
    ],
)
def test_the_path_told_is_the_path_taken(pattern, tokens, way, monkeypatch):
    taken = []
    for name in ("full", "masked", "banded"):
        real_one = getattr(attention, name)
        monkeypatch.setattr(
            attention, name, lambda *args, n=name, f=real_one: (taken.append(n), f(*args))[1]
        )
    qkv, mask, _ = inputs(tokens, dtype=torch.float32, clips=1)
    attend(*qkv, mask, pattern)
    assert [path(pattern, tokens)] == taken == [way]


@pytest.mark.parametrize(
    "settings",
    [
        {"one_sided_window": -1},
        {"one_sided_window": 1, "dilation": 0},
        {"dilation": 2},
        {"global_tokens": -1},
    ],
)
def test_a_pattern_refuses_what_makes_no_sense(settings):
    with pytest.raises(ConfigError, match=next(reversed(settings))):
        Pattern(**settings)
