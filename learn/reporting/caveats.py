"""What must be known before a number of a report is quoted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from learn.reporting.inputs import Gathered, Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """`serious` ones make numbers worthless or incomparable; others say how to read them."""

    kind: str
    title: str
    text: str
    serious: bool


def stamps(known: Gathered, pretraining: Mapping[str, str]) -> list[Stamp]:
    """All stamps that apply; `pretraining` says of features what their networks were trained on."""
    return [
        *_untrained(known),
        *_seen(known),
        *(stamp for question in known.questions for stamp in _groups(question)),
        *_transductive(known),
        *_centred(known),
        *_unfinished(known),
        *_pretrained(pretraining),
    ]


def _untrained(known: Gathered) -> Iterator[Stamp]:
    of_episodes = [row.told for question in known.questions for row in question.rows]
    of_protocols = [row for one in known.evaluations for row in one.told["results"]]
    marked = [row for row in (*of_episodes, *of_protocols) if row["untrained"]]
    if marked:
        total = len(of_episodes) + len(of_protocols)
        yield Stamp(
            kind="untrained",
            title="Untrained weights",
            text=f"{len(marked)} of {total} results rest on features of random weights: they show "
            "that the plumbing works, and nothing of an encoder's worth.",
            serious=True,
        )


def _seen(known: Gathered) -> Iterator[Stamp]:
    seen: dict[str, int] = {}
    rows = [row.told for question in known.questions for row in question.rows]
    for row in (*rows, *(row for one in known.evaluations for row in one.told["results"])):
        if row["seen_in_training"]:
            name = known.projection(row["projection"])
            seen[name] = max(seen.get(name, 0), row["seen_in_training"])
    if seen:
        told = ", ".join(f"{name} on {clips}" for name, clips in seen.items())
        yield Stamp(
            kind="seen-in-training",
            title="Scored clips seen in training",
            text=f"Projections were trained on clips that are scored here ({told}): their numbers "
            "are too high for new clips.",
            serious=True,
        )


def _groups(question: Question) -> Iterator[Stamp]:
    told = question.sampling
    if told["group"] and told.get("groups", "within") != "mixed":
        return
    yield Stamp(
        kind="groups-ignored",
        title="Sources not kept apart",
        text=f"In the {told['ways']}-way episodes of column {told['label']}, clips cut from one "
        "source may be in support and query, which makes numbers too high where sources gave "
        "several clips each.",
        serious=True,
    )


def _transductive(known: Gathered) -> Iterator[Stamp]:
    rows = [row.told for question in known.questions for row in question.rows]
    heads = dict.fromkeys(row["head"] for row in rows if row["transductive"])
    if heads:
        yield Stamp(
            kind="transductive",
            title="Transductive heads",
            text=f"{_listed(heads)}: all queries of an episode are looked at together. Compare "
            "such heads with each other, not with those that answer one clip at a time.",
            serious=False,
        )


def _centred(known: Gathered) -> Iterator[Stamp]:
    rows = [row.told for question in known.questions for row in question.rows]
    by: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["centred_by"] != "none":
            by.setdefault(row["centred_by"], {})[row["head"]] = None
    if by:
        told = "; ".join(f"{_listed(heads)} by the {what}" for what, heads in by.items())
        yield Stamp(
            kind="centred",
            title="Whose mean was taken off",
            text=f"Vectors were centred: {told}.",
            serious=False,
        )


def _unfinished(known: Gathered) -> Iterator[Stamp]:
    names = [known.names[str(one.path)] for one in known.trainings if not one.finished]
    if names:
        yield Stamp(
            kind="unfinished",
            title="Unfinished training",
            text=f"{_listed(names)}: only what was written so far is shown.",
            serious=True,
        )


def _pretrained(pretraining: Mapping[str, str]) -> Iterator[Stamp]:
    if pretraining:
        told = "; ".join(f"{feature}: {text}" for feature, text in pretraining.items())
        yield Stamp(
            kind="pre-training",
            title="Pre-training may overlap",
            text=f"{told}. Nobody has checked whether the clips scored here, or others of their "
            "classes, were among what these networks were trained on; where they were, numbers "
            "are too high for new material.",
            serious=False,
        )


def _listed(names: Mapping[str, None] | Sequence[str]) -> str:
    return ", ".join(names)
