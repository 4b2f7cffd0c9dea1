"""What a run's own classifier says of clips, read back from the weights of its last objective.

Shapes: V = clips, C = classes of the training.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from learn.data import Rows
from learn.objectives import Objective
from learn.runs import Run
from store import plugins
from store.errors import InputError


@torch.inference_mode()
def class_shares(run: Run, rows: Mapping[str, Rows]) -> dict[str, Float[Tensor, "V C"]]:
    """Shares of the training's classes, from each output that the objective classifies.

    Raises:
        InputError: it classifies none.
    """
    known = {m: one for m, one in rows.items() if m in run.features}
    scores = run.objective.classify(run.space.embed(known))
    if not scores:
        able = [
            name
            for name in plugins.names("learn.objectives")
            if _classifies(plugins.module("learn.objectives", name))
        ]
        raise InputError(
            f"{run.path} has no head: its last objective {_name(run.objective)!r} does not "
            f"classify; train with one of {', '.join(able)}, or use --protocol linear"
        )
    return {name: logits.softmax(-1) for name, logits in scores.items()}


def _name(objective: Objective) -> str:
    return type(objective).__module__.rpartition(".")[2]


def _classifies(module: object) -> bool:
    """Does a class of this module say how?"""
    return any(
        isinstance(one, type)
        and issubclass(one, Objective)
        and one.classify is not Objective.classify
        for one in vars(module).values()
    )
