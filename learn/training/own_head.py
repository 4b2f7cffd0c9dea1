"""The classifier or the head of a run's last objective, read back from the run.

Shapes: V = clips, C = classes of the training.
"""

from collections.abc import Mapping, Sequence
from inspect import isabstract

import torch
from jaxtyping import Float
from torch import Tensor

from learn.data.rows import Rows
from learn.fewshot.heads import Head
from learn.training.objectives import Objective
from learn.training.runs import Run
from store import plugins
from store.errors import InputError

NAME = "own"  # what a run's own head is called where heads are named


@torch.inference_mode()
def class_shares(run: Run, rows: Mapping[str, Rows]) -> dict[str, Float[Tensor, "V C"]]:
    """Class probabilities from each output that the run's last objective classifies.

    Raises:
        InputError: it classifies none.
    """
    known = {m: stored for m, stored in rows.items() if m in run.features}
    scores = run.objective.classify(run.space.embed(known))
    if not scores:
        able = _that_override(Objective.classify.__name__)
        raise InputError(
            f"{run.path} has no head: its last objective {_name(run.objective)!r} does not "
            f"classify; train with one of {', '.join(able)}, or use `protocol` linear"
        )
    return {name: logits.softmax(-1) for name, logits in scores.items()}


@torch.inference_mode()
def name_scores(
    run: Run, rows: Mapping[str, Rows], names: Sequence[str]
) -> dict[str, Float[Tensor, "V C"]]:
    """Scores of class names by the test rule of the run's last objective, by mode.

    Raises:
        InputError: it has none.
    """
    known = {m: stored for m, stored in rows.items() if m in run.features}
    scores = {}
    if run.labels is not None:
        scores = run.objective.name_scores(
            run.space.embed(known),
            {m: stored.means() for m, stored in known.items()},
            torch.from_numpy(run.labels.of(names)),
        )
    if not scores:
        able = ", ".join(_that_override(Objective.name_scores.__name__))
        raise InputError(
            f"{run.path} has no test rule of its own for names of classes; those of {able} have "
            "one, trained with `labels`; use `rule` cosine"
        )
    return scores


def of_episodes(run: Run | None) -> Head:
    """The head of the run's last objective.

    Raises:
        InputError: there is no run, or its objective has none.
    """
    head = None if run is None else run.objective.head()
    if head is None:
        able = ", ".join(_that_override(Objective.head.__name__))
        owner = "stored vectors have" if run is None else f"{run.path} has"
        raise InputError(
            f"{owner} no head {NAME!r}: it is that of a run whose objective learns to answer "
            f"episodes ({able}); give such a `projection`, or another `head`"
        )
    return head


def _that_override(method: str) -> list[str]:
    """Names of the objectives that define this method themselves."""
    return [
        name
        for name in plugins.names("learn.training.objectives")
        if _overrides(plugins.module("learn.training.objectives", name), method)
    ]


def _name(objective: Objective) -> str:
    return type(objective).__module__.rpartition(".")[2].lstrip("_")


def _overrides(module: object, method: str) -> bool:
    """True if an objective of this module, or one it builds on, defines this method."""
    return any(
        isinstance(member, type)
        and issubclass(member, Objective)
        and not isabstract(member)
        and getattr(member, method) is not getattr(Objective, method)
        for member in vars(module).values()
    )
