"""Facts that must be known before a number of a report is quoted."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from learn.reporting.inputs import Question, ReportInputs
from learn.reporting.weights import stored_beside


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """A fact about numbers; `serious` ones make them worthless or incomparable."""

    kind: str
    title: str
    text: str
    serious: bool


def find_caveats(inputs: ReportInputs, pretraining: Mapping[str, str]) -> list[Caveat]:
    """All caveats that apply; `pretraining` holds what the networks of features learnt from."""
    return [
        *_untrained(inputs),
        *_seen_in_training(inputs),
        *(caveat for question in inputs.questions for caveat in _groups_ignored(question)),
        *(caveat for question in inputs.questions for caveat in _not_beside_stored(question)),
        *_transductive(inputs),
        *_centred(inputs),
        *_unfinished(inputs),
        *_pretrained(pretraining),
    ]


def _untrained(inputs: ReportInputs) -> Iterator[Caveat]:
    untrained = [row.untrained for row in inputs.rows]
    untrained += [finding["untrained"] for finding in inputs.findings]
    if any(untrained):
        yield Caveat(
            kind="untrained",
            title="Untrained weights",
            text=f"{sum(map(bool, untrained))} of {len(untrained)} results rest on features of "
            "random weights: they show that the plumbing works, and nothing of an encoder's worth.",
            serious=True,
        )


def _seen_in_training(inputs: ReportInputs) -> Iterator[Caveat]:
    seen = [(row.projection, row.seen_in_training) for row in inputs.rows]
    seen += [(f["projection"], f["seen_in_training"]) for f in inputs.findings]
    most: dict[str, int] = {}
    for projection, clips in seen:
        if clips:
            name = inputs.projection_name(projection)
            most[name] = max(most.get(name, 0), clips)
    if most:
        listed = ", ".join(f"{name} on {clips}" for name, clips in most.items())
        yield Caveat(
            kind="seen-in-training",
            title="Scored clips seen in training",
            text=f"Projections, or the encoders of stored vectors, were trained on clips that are "
            f"scored here ({listed}): their numbers are too high for new clips.",
            serious=True,
        )


def _groups_ignored(question: Question) -> Iterator[Caveat]:
    sampling = question.sampling
    if sampling["group"] and sampling.get("groups", "within") != "mixed":
        return
    yield Caveat(
        kind="groups-ignored",
        title="Sources not kept apart",
        text=f"In the {sampling['ways']}-way episodes of column {sampling['label']}, clips cut "
        "from one source may be in support and query, which makes numbers too high where sources "
        "gave several clips each. `learn groups` finds them.",
        serious=True,
    )


def _not_beside_stored(question: Question) -> Iterator[Caveat]:
    alone = [r for r in question.rows if stored_beside(question, r)[0] == "not scored"]
    if alone:
        yield Caveat(
            kind="not-beside-stored",
            title="No stored vectors beside a run",
            text=f"{len(alone)} results of projections stand without those of the stored vectors "
            "they were made from, so nobody can say whether training helped; score these too: "
            "learn episodes … --projection none --projection RUN",
            serious=False,
        )


def _transductive(inputs: ReportInputs) -> Iterator[Caveat]:
    heads = dict.fromkeys(row.head for row in inputs.rows if row.transductive)
    if heads:
        yield Caveat(
            kind="transductive",
            title="Transductive heads",
            text=f"{_listed(heads)}: all queries of an episode are looked at together. Compare "
            "such heads with each other, not with those that answer one clip at a time.",
            serious=False,
        )


def _centred(inputs: ReportInputs) -> Iterator[Caveat]:
    by_mean: dict[str, dict[str, None]] = {}  # by what was taken off
    for row in inputs.rows:
        if row.centred_by != "none":
            by_mean.setdefault(row.centred_by, {})[row.head] = None
    if by_mean:
        listed = "; ".join(
            f"that of the {mean} by {_listed(centred)}" for mean, centred in by_mean.items()
        )
        yield Caveat(
            kind="centred",
            title="How vectors were centred",
            text=f"A mean was taken off before vectors were compared: {listed}.",
            serious=False,
        )


def _unfinished(inputs: ReportInputs) -> Iterator[Caveat]:
    names = [inputs.run_name(run.path) for run in inputs.trainings if not run.finished]
    if names:
        yield Caveat(
            kind="unfinished",
            title="Unfinished training",
            text=f"{_listed(names)}: only what was written so far is shown.",
            serious=True,
        )


def _pretrained(pretraining: Mapping[str, str]) -> Iterator[Caveat]:
    if pretraining:
        listed = "; ".join(f"{feature}: {text}" for feature, text in pretraining.items())
        yield Caveat(
            kind="pre-training",
            title="Pre-training may overlap",
            text=f"{listed}. Nobody has checked whether the clips scored here, or others of their "
            "classes, were among what these networks were trained on; where they were, numbers "
            "are too high for new material.",
            serious=False,
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
