"""What could be drawn where the episodes asked for cannot: words that end a refusal."""

from collections.abc import Iterator, Mapping, Sequence

from learn.data.clips import Clips
from learn.data.evaluation_set import EvaluationSet
from learn.fewshot.tasks import _sampler
from store.errors import MicroshotError

NAMED = 8  # classes of those that vanished


def nothing_left(scored: EvaluationSet, split: str) -> str:
    """The refusal of a split of which no clip can be scored."""
    lacking = _lacking(scored.dropped)
    vanished = f"; {named(scored.vanished)}" if scored.vanished else ""
    return (
        f"no clip of split {split!r} can be scored ({lacking or 'it is empty'}){vanished}; name "
        "modes with `support` that its clips have, or another split or label"
    )


def remedies(
    scored: EvaluationSet, *, ways: int, shots: Sequence[int], queries: int, groups: str
) -> str:
    """What a refusal to draw does not know: classes gone for lack of rows, and what would work."""
    words = ""
    if scored.vanished:
        words += f". For lack of rows ({_lacking(scored.dropped)}) {named(scored.vanished)}"
    elif lacking := _lacking(scored.dropped):
        words += f". Left out are {lacking}; name modes with `support` that they have"
    if numbers := numbers_that_work(scored.clips, ways, max(shots), queries, groups):
        settings = zip(("ways", "shots", "queries"), numbers, strict=True)
        words += ". It would work with " + ", ".join(f"`{key}` {n}" for key, n in settings)
    return words


def numbers_that_work(
    clips: Clips, ways: int, shots: int, queries: int, groups: str
) -> tuple[int, int, int] | None:
    """The most ways, then shots, then queries, none above those asked for, that some classes
    have; None if even two with a shot and a query each are not there."""
    try:
        sampler = _sampler.EpisodeSampler(clips, groups)
    except MicroshotError:
        return None
    best = None
    for k in _down_from(shots):
        for q in _down_from(queries):
            found = (min(ways, len(sampler.eligible(k, q))), k, q)
            if found[0] >= 2 and (best is None or found > best):
                best = found
    return best


def named(classes: Sequence[str]) -> str:
    """How many classes have no clip left, and the first of them."""
    listed = ", ".join(classes[:NAMED]) + (", …" if len(classes) > NAMED else "")
    many = len(classes) != 1
    return f"{len(classes)} class{'es have' if many else ' has'} no clip left: {listed}"


def _lacking(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{n} with {reason}" for reason, n in dropped.items() if n)


def _down_from(most: int) -> Iterator[int]:
    """Every number down to 1; of large ones those that halve."""
    while most > 20:
        yield most
        most //= 2
    yield from range(most, 0, -1)
