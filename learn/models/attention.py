"""Multi-head attention over padded clips: everyone, a window, a dilated window, a window and hubs.

Shapes: B = clips, H = heads, T = tokens (padded), C = channels per head, K = keys that one chunk of
queries looks at.

`dense` is the obvious way, through a T x T table; it defines the answer. `attend` gives the same
answer by the cheapest of three ways, and `path` says which one that is:

    full      every real token sees every real token: time O(T^2), memory O(T)
    banded    queries in chunks, each chunk beside the keys it can reach: time and memory O(T)
    masked    a T x T mask, for clips so short that cutting them up costs more than it saves

Padding neither looks nor is looked at, whatever it holds: its answer is zero, and so is its
gradient. Every real token sees itself. Softmax runs in float32 or better.

Source: Beltagy, Peters & Cohan, 2020, "Longformer", section 3.1; their w is the whole window and
`reach` one side of it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from store.errors import ConfigError

CHUNK = 32  # least queries in a chunk; 16 to 128 were measured: fewer copy more, more score in vain
SHORT = 128  # tokens: up to here one masked table was measured to be no slower than chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Who sees whom: token i sees token j if |i - j| is 0, 1, … `reach` times `dilation`.

    The first `hubs` tokens see everyone and are seen by everyone.
    """

    reach: int | None = None  # neighbours on EACH side; None: everyone
    dilation: int = 1  # distance between neighbours, in tokens
    hubs: int = 0

    def __post_init__(self) -> None:
        if self.reach is not None and self.reach < 0:
            raise ConfigError(f"attention: reach={self.reach} is less than 0")
        if self.dilation < 1:
            raise ConfigError(f"attention: dilation={self.dilation} is less than 1")
        if self.reach is None and self.dilation > 1:
            raise ConfigError(
                f"attention: dilation={self.dilation} needs a window; give its reach too"
            )
        if self.hubs < 0:
            raise ConfigError(f"attention: hubs={self.hubs} is less than 0")

    def visible(
        self, tokens: int, device: torch.device | None = None
    ) -> Bool[Tensor, "{tokens} {tokens}"]:
        """Row i says whom token i sees, were all tokens real."""
        place = torch.arange(tokens, device=device)
        apart = (place[:, None] - place).abs()
        if self.reach is None:
            return torch.ones_like(apart, dtype=torch.bool)
        near = (apart % self.dilation == 0) & (apart // self.dilation <= self.reach)
        return near | (place < self.hubs) | (place < self.hubs)[:, None]


def path(pattern: Pattern, tokens: int) -> str:
    """How `attend` computes this pattern at this length: `full`, `banded` or `masked`."""
    others = tokens - pattern.hubs
    if pattern.reach is None or (pattern.dilation == 1 and pattern.reach >= others - 1):
        return "full"
    _, reach, size = _chunking(pattern.reach, pattern.dilation, others)
    keys = size + 2 * reach + pattern.hubs
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
        x.to(torch.promote_types(x.dtype, torch.float32)) for x in _silenced(q, k, v, mask)
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
    """Everyone sees everyone, through a fused kernel that keeps no T x T table."""
    q, k, v = _silenced(q, k, v, mask)
    return _unheard(_everyone(q, k, v, mask), mask)


def masked(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H T C"]:
    """Any pattern, through a fused kernel and a T x T mask."""
    q, k, v = _silenced(q, k, v, mask)
    self_TT = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
    allowed = pattern.visible(q.shape[2], q.device) & (mask[:, None] | self_TT)
    return _unheard(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None]), mask)


def banded(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H T C"]:
    """A windowed pattern without looking at what is out of reach; O(T) in time and memory."""
    assert pattern.reach is not None, "only a window has a band"
    q, k, v = _silenced(q, k, v, mask)
    hubs = min(pattern.hubs, q.shape[2])
    parts = []
    if hubs:
        parts.append(_everyone(q[:, :, :hubs], k, v, mask))
    if hubs < q.shape[2]:
        parts.append(_band(q, k, v, mask, pattern))
    return _unheard(torch.cat(parts, dim=2), mask)


def _band(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
    pattern: Pattern,
) -> Float[Tensor, "B H _ C"]:
    """The tokens after the hubs, in chunks; each chunk looks at what it reaches and at the hubs."""
    assert pattern.reach is not None
    hubs, tokens = pattern.hubs, q.shape[2] - pattern.hubs
    stride, reach, size = _chunking(pattern.reach, pattern.dilation, tokens)
    span = size + 2 * reach  # keys around a chunk
    chunks = -(-tokens // (stride * size))

    def combed(x: Tensor) -> Tensor:
        """[B, stride, H, places, C]: tokens `stride` apart become neighbours."""
        x = F.pad(x[:, :, hubs:], (0, 0, 0, stride * size * chunks - tokens))
        return x.reshape(*x.shape[:2], -1, stride, x.shape[3]).permute(0, 3, 1, 2, 4)

    def around(x: Tensor) -> Tensor:
        """[B * stride * chunks, H, K, C]: what each chunk can see."""
        near = F.pad(combed(x), (0, 0, reach, reach)).unfold(3, span, size)
        near = near.permute(0, 1, 3, 2, 5, 4).flatten(0, 2)
        every = x[:, None, :, :hubs].expand(-1, stride * chunks, -1, -1, -1).flatten(0, 1)
        return torch.cat([near, every], dim=2) if hubs else near

    place = torch.arange(size, device=q.device)[:, None]
    apart = torch.arange(-reach, size + reach, device=q.device) - place
    near = F.pad(apart.abs() <= reach, (0, hubs), value=True)
    itself = F.pad(apart == 0, (0, hubs), value=False)  # so that no query sees nobody
    allowed = near & (around(mask[:, None, :, None]).mT | itself)
    clips, heads, _, channels = q.shape
    queries = combed(q).reshape(clips, stride, heads, chunks, size, channels)
    queries = queries.transpose(2, 3).flatten(0, 2)
    out = F.scaled_dot_product_attention(queries, around(k), around(v), attn_mask=allowed)
    out = out.reshape(clips, stride, chunks, heads, size, channels).permute(0, 3, 2, 4, 1, 5)
    return out.flatten(2, 4)[:, :, :tokens]


def _chunking(reach: int, dilation: int, tokens: int) -> tuple[int, int, int]:
    """From neighbour to neighbour, neighbours on each side, queries in a chunk; cut to `tokens`."""
    stride = max(1, min(dilation, tokens))
    places = -(-tokens // stride)
    return stride, min(reach, max(places - 1, 0)), max(1, min(max(reach, CHUNK), places))


def _everyone(
    q: Float[Tensor, "B H Q C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B H Q C"]:
    # A clip of padding only sees its zeros: of a query that sees nobody a kernel may make NaN.
    seen = mask | ~mask.any(1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])


def _silenced(
    q: Float[Tensor, "B H T C"],
    k: Float[Tensor, "B H T C"],
    v: Float[Tensor, "B H T C"],
    mask: Bool[Tensor, "B T"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros for padding: a mask on the scores alone would leave 0 · inf in values and gradients."""
    padding = ~mask[:, None, :, None]
    return q.masked_fill(padding, 0), k.masked_fill(padding, 0), v.masked_fill(padding, 0)


def _unheard(out: Float[Tensor, "B H T C"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B H T C"]:
    return out.masked_fill(~mask[:, None, :, None], 0)
