"""Multi-head attention over padded clips: full, windowed, dilated, or windowed with global tokens.

Shapes: B = clips, H = heads, T = tokens (padded), C = channels per head, K = keys that one chunk of
queries looks at.

`dense` is the obvious way, through a T x T table; it defines the answer. `attend` gives the same
answer by the cheapest of three ways, and `path` says which one that is:

    full      every real token sees every real token: time O(T^2), memory O(T)
    banded    queries in chunks, each chunk beside the keys it can see: time and memory O(T)
    masked    a T x T mask, for clips so short that cutting them up costs more than it saves

Padding neither looks nor is looked at, whatever it holds: its answer is zero, and so is its
gradient. Every real token sees itself. Softmax runs in float32 or better.

Source: Beltagy, Peters & Cohan, 2020, "Longformer", section 3.1; their w is the whole window and
`one_sided_window` half of it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from store.errors import ConfigError

CHUNK = (
    32  # queries in a chunk, at least; of 16 to 128: fewer copy more, more score pairs out of sight
)
SHORT = 128  # tokens: up to here one masked table was measured to be no slower than chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """The tokens that each token sees: i sees j if |i - j| is 0, 1, … `one_sided_window` times
    `dilation`.

    The first `global_tokens` tokens see everyone and are seen by everyone.
    """

    one_sided_window: int | None = None  # neighbours on EACH side; None: everyone
    dilation: int = 1  # distance between neighbours, in tokens
    global_tokens: int = 0

    def __post_init__(self) -> None:
        if self.one_sided_window is not None and self.one_sided_window < 0:
            raise ConfigError(f"attention: one_sided_window={self.one_sided_window} is less than 0")
        if self.dilation < 1:
            raise ConfigError(f"attention: dilation={self.dilation} is less than 1")
        if self.one_sided_window is None and self.dilation > 1:
            raise ConfigError(
                f"attention: dilation={self.dilation} needs a window; give one_sided_window too"
            )
        if self.global_tokens < 0:
            raise ConfigError(f"attention: global_tokens={self.global_tokens} is less than 0")

    def visible(
        self, tokens: int, device: torch.device | None = None
    ) -> Bool[Tensor, "{tokens} {tokens}"]:
        """The T x T mask, as if no token were padding: row i marks the tokens that token i sees."""
        position = torch.arange(tokens, device=device)
        distance = (position[:, None] - position).abs()
        if self.one_sided_window is None:
            return torch.ones_like(distance, dtype=torch.bool)
        near = (distance % self.dilation == 0) & (
            distance // self.dilation <= self.one_sided_window
        )
        return near | (position < self.global_tokens) | (position < self.global_tokens)[:, None]


def path(pattern: Pattern, tokens: int) -> str:
    """The way `attend` computes this pattern at this length: `full`, `banded` or `masked`."""
    others = tokens - pattern.global_tokens
    if pattern.one_sided_window is None or (
        pattern.dilation == 1 and pattern.one_sided_window >= others - 1
    ):
        return "full"
    _, neighbours, size = _chunking(pattern.one_sided_window, pattern.dilation, others)
    keys = size + 2 * neighbours + pattern.global_tokens
    return "banded" if tokens > SHORT and 4 * keys <= 3 * tokens else "masked"


def attend(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H T C"]:
    """softmax(q kᵀ / √C) v over the real tokens that `pattern` lets each one see."""
    ways = {"full": full, "banded": banded, "masked": masked}
    return ways[path(pattern, q.shape[2])](q, k, v, mask, pattern)


def dense(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H T C"]:
    """The reference: every score, then a mask."""
    q_, k_, v_ = (
        x.to(torch.promote_types(x.dtype, torch.float32)) for x in _masked_inputs(q, k, v, mask)
    )
    allowed = pattern.visible(q.shape[2], q.device) & (mask[:, :, None] & mask[:, None])[:, None]
    scores = torch.einsum("bhtc,bhsc->bhts", q_, k_) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    return torch.einsum("bhts,bhsc->bhtc", weights.masked_fill(~allowed, 0), v_).to(q.dtype)


def full(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H T C"]:
    """Attention of every token to every token, by a fused kernel that keeps no T x T table."""
    q, k, v = _masked_inputs(q, k, v, mask)
    return _masked_output(_everyone(q, k, v, mask), mask)


def masked(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H T C"]:
    """Attention in any pattern, by a fused kernel and a T x T mask."""
    q, k, v = _masked_inputs(q, k, v, mask)
    self_TT = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
    allowed = pattern.visible(q.shape[2], q.device) & (mask[:, None] | self_TT)
    return _masked_output(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None]), mask)


def banded(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H T C"]:
    """Windowed attention that never looks outside the window; O(T) in time and memory."""
    assert pattern.one_sided_window is not None, "only a window has a band"
    q, k, v = _masked_inputs(q, k, v, mask)
    global_tokens = min(pattern.global_tokens, q.shape[2])
    parts = []
    if global_tokens:
        parts.append(_everyone(q[:, :, :global_tokens], k, v, mask))
    if global_tokens < q.shape[2]:
        parts.append(_band(q, k, v, mask, pattern))
    return _masked_output(torch.cat(parts, dim=2), mask)


def _band(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H _ C"]:
    """Attention of the tokens after the global ones, in chunks that see their windows."""
    assert pattern.one_sided_window is not None
    global_tokens, tokens = pattern.global_tokens, q.shape[2] - pattern.global_tokens
    stride, neighbours, size = _chunking(pattern.one_sided_window, pattern.dilation, tokens)
    span = size + 2 * neighbours  # keys around a chunk
    chunks = -(-tokens // (stride * size))

    def combed(x: Tensor) -> Tensor:
        """Tokens `stride` apart become neighbours: [B, stride, H, positions, C]."""
        x = F.pad(x[:, :, global_tokens:], (0, 0, 0, stride * size * chunks - tokens))
        return x.reshape(*x.shape[:2], -1, stride, x.shape[3]).permute(0, 3, 1, 2, 4)

    def around(x: Tensor) -> Tensor:
        """The keys or values that each chunk can see: [B * stride * chunks, H, K, C]."""
        visible = F.pad(combed(x), (0, 0, neighbours, neighbours)).unfold(3, span, size)
        visible = visible.permute(0, 1, 3, 2, 5, 4).flatten(0, 2)
        shared = x[:, None, :, :global_tokens].expand(-1, stride * chunks, -1, -1, -1)
        return torch.cat([visible, shared.flatten(0, 1)], dim=2) if global_tokens else visible

    position = torch.arange(size, device=q.device)[:, None]
    distance = torch.arange(-neighbours, size + neighbours, device=q.device) - position
    visible = F.pad(distance.abs() <= neighbours, (0, global_tokens), value=True)
    # Every query sees itself at least: a softmax over nothing would make NaN.
    self_visible = F.pad(distance == 0, (0, global_tokens), value=False)
    allowed = visible & (around(mask[:, None, :, None]).mT | self_visible)
    clips, heads, _, channels = q.shape
    queries = combed(q).reshape(clips, stride, heads, chunks, size, channels)
    queries = queries.transpose(2, 3).flatten(0, 2)
    out = F.scaled_dot_product_attention(queries, around(k), around(v), attn_mask=allowed)
    out = out.reshape(clips, stride, chunks, heads, size, channels).permute(0, 3, 2, 4, 1, 5)
    return out.flatten(2, 4)[:, :, :tokens]


def _chunking(one_sided_window: int, dilation: int, tokens: int) -> tuple[int, int, int]:
    """Stride to the next neighbour, neighbours on each side, queries in a chunk."""
    stride = max(1, min(dilation, tokens))
    positions = -(-tokens // stride)
    return (
        stride,
        min(one_sided_window, max(positions - 1, 0)),
        max(1, min(max(one_sided_window, CHUNK), positions)),
    )


def _everyone(
    q: Float[Tensor, "B H Q C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B H Q C"]:
    # A clip of padding only sees its zeros: a kernel may make NaN of a query that sees nothing.
    seen = mask | ~mask.any(1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])


def _masked_inputs(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with zeros for padding: masked scores alone would leave 0 · inf in gradients."""
    padding = ~mask[:, None, :, None]
    return q.masked_fill(padding, 0), k.masked_fill(padding, 0), v.masked_fill(padding, 0)


def _masked_output(
    out: Float[Tensor, "B H T C"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B H T C"]:
    return out.masked_fill(~mask[:, None, :, None], 0)
