"""What a run's own classifier says of clips, read back from the weights of its last objective.

Shapes: V = clips, C = classes of the training.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from learn.data import Rows
from learn.objectives import Objective, Scene
from learn.runs import Run
from store import plugins
from store.errors import InputError


def load_objective(run: Run) -> Objective:
    """The last stage's objective with its trained weights, in eval mode."""
    scene = Scene(
        outputs=run.space.outputs, inputs=run.dims, classes=run.classes, clips=run.clips
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        objective: Objective = plugins.build("learn.objectives", run.objective, scene)
    objective.load_state_dict(run.objective_weights)
    return objective.eval()


@torch.inference_mode()
def class_shares(run: Run, rows: Mapping[str, Rows]) -> dict[str, Float[Tensor, "V C"]]:
    """Shares of the training's classes, from each output that the objective classifies.

    Raises:
        InputError: it classifies none.
    """
    known = {m: one for m, one in rows.items() if m in run.features}
    scores = load_objective(run).classify(run.space.embed(known))
    if not scores:
        able = [
            name
            for name in plugins.names("learn.objectives")
            if _classifies(plugins.module("learn.objectives", name))
        ]
        raise InputError(
            f"{run.path} has no head: its last objective {run.objective.name!r} does not "
            f"classify; train with one of {', '.join(able)}, or use --protocol linear"
        )
    return {name: logits.softmax(-1) for name, logits in scores.items()}


def _classifies(module: object) -> bool:
    """Does a class of this module say how?"""
    return any(
        isinstance(one, type)
        and issubclass(one, Objective)
        and one.classify is not Objective.classify
        for one in vars(module).values()
    )
