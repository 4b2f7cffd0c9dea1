"""What results and modes are called: by what tells them from the others."""

from typing import Any

from learn.reporting.inputs import Gathered, Question, Row

MODES = {"v": "v (sight)", "a": "a (sound)", "av": "av (both)"}


def named(row: Row, question: Question, known: Gathered) -> str:
    """A result by what tells it from others of its mode."""
    parts = [str(row.told["head"]), apart_from_head(row, question, known)]
    return " · ".join(filter(None, parts))


def apart_from_head(row: Row, question: Question, known: Gathered) -> str:
    parts = []
    if len({other.told["projection"] for other in question.rows}) > 1:
        parts.append(known.projection(row.told["projection"]))
    key = _key(row)
    if any(_key(other) == key and other.run != row.run for other in question.rows):
        parts.append(known.names[str(row.run)])
    return " · ".join(parts)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.told[k] for k in ("head", "projection", "support", "query", "shots"))


def mode_name(mode: str) -> str:
    """A mode, or a pair of modes, for people."""
    one, _, other = mode.partition("→")
    if other:
        return f"support {one} → query {other}"
    return MODES[mode]


def chance_line(question: Question) -> tuple[str, float] | None:
    """What guessing gives, as a line of a drawing."""
    return None if question.chance is None else ("chance", question.chance)
