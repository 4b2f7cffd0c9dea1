"""Which streams of an MPEG transport stream follow one another under other numbers (PIDs).

Where files are joined, what follows may have numbers of its own. A stream that begins where another
one of its kind has ended goes on with it; streams that run side by side (languages, programmes)
are alternatives, as ever.

Source: ISO/IEC 13818-1 2.4.3 (transport packets).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

SYNC, NUMBERS = 0x47, 1 << 13
TABLES = 0x1F  # the last PID of tables that every stream has
STEPS = (188, 192, 204)  # bytes a packet: plain, with a time stamp, with parity
CHUNK_PACKETS = 1 << 15
MAX_LOST = 1000  # times that packets do not follow one another, before the rest is given up
OVERLAP = 0.02  # of the shorter one: so much of two streams may lie side by side at a joint

Span = tuple[int, int]  # where the first and the last packet of a stream begin, in bytes


def pid_spans(file: BinaryIO, size: int) -> dict[int, Span]:
    """The span of every PID of a transport stream; nothing for any other file."""
    file.seek(0)
    head = file.read(9 * max(STEPS))
    begin = ((at, step) for step in STEPS for at in range(step) if _runs(head, at, step, 8))
    at, step = next(begin, (0, 0))
    first, last = np.full(NUMBERS, -1), np.full(NUMBERS, -1)
    lost = 0
    while step and at + min(STEPS) <= size and lost <= MAX_LOST:
        file.seek(at)
        data = file.read(step * CHUNK_PACKETS)
        if len(data) % step >= min(STEPS):  # the last one begins with what is before the packet
            data = data.ljust(-(-len(data) // step) * step, b"\0")
        packets = np.frombuffer(data, np.uint8, len(data) // step * step).reshape(-1, step)
        wrong = np.flatnonzero(packets[:, 0] != SYNC)
        good = packets[: wrong[0]] if len(wrong) else packets
        pids = (good[:, 1].astype(np.int64) & 31) << 8 | good[:, 2]
        places = at + step * np.arange(len(good))
        last[pids] = places
        fresh = first[pids] < 0
        first[pids[fresh][::-1]] = places[fresh][::-1]
        at += step * len(good)
        if len(wrong):
            lost += 1
            rest = data[step * len(good) :]
            found = (k for k in range(1, len(rest)) if _runs(rest, k, step, 3))
            at += next(found, max(len(rest) - 3 * step, 1))
        elif not len(good):
            break
    return {int(pid): (int(first[pid]), int(last[pid])) for pid in np.flatnonzero(first >= 0)}


def _runs(data: bytes, at: int, step: int, count: int) -> bool:
    """Whether so many packets begin at that place and one after another."""
    run = data[at : at + step * (count - 1) + 1 : step]
    return len(run) == count and run == bytes([SYNC]) * count


def begins_late(spans: Mapping[int, Span]) -> int:
    """Where the last one begins of the streams that follow another; 0 if none does. Without being
    told to look so far, libraries do not see them.
    """
    streams = [span for pid, span in spans.items() if TABLES < pid < NUMBERS - 1]
    first_end = min((last for _, last in streams), default=0)
    return max((first for first, _ in streams if first > first_end), default=0)


def chain_of(
    chosen: Any,
    others: Sequence[Any],
    spans: Mapping[int, Span],
    rank: Callable[[Any], Any],
) -> tuple[list[Any], str]:
    """The streams of which `chosen` is one and that follow one another, in order, and what is said
    of those that are of another codec, and so are not read.
    """
    chain = [chosen]
    rest = [s for s in others if s is not chosen and s.id in spans]
    if chosen.id not in spans or not rest:
        return chain, ""
    while after := [s for s in rest if _follows(spans[s.id], spans[chain[-1].id])]:
        soonest = min(spans[s.id][1] for s in after)
        chain.append(max((s for s in after if spans[s.id][0] <= soonest), key=rank))
    while before := [s for s in rest if _follows(spans[chain[0].id], spans[s.id])]:
        latest = max(spans[s.id][0] for s in before)
        chain.insert(0, max((s for s in before if spans[s.id][1] >= latest), key=rank))
    alike = [stream for stream in chain if _codec(stream) == _codec(chosen)]
    left_out = [stream for stream in chain if stream not in alike]
    if not left_out:
        return chain, ""
    names = ", ".join(f"PID {s.id}: {_codec(s) or 'unknown codec'}" for s in left_out)
    return alike, f"part of the {chosen.type} has another codec and is not read ({names})"


def _follows(later: Span, earlier: Span) -> bool:
    shorter = min(later[1] - later[0], earlier[1] - earlier[0])
    return later[0] > earlier[0] and earlier[1] - later[0] < OVERLAP * shorter


def _codec(stream: Any) -> str:
    return "" if stream.codec_context is None else stream.codec_context.name
