"""One file that holds where a training stands, bit for bit; it is replaced whole or not at all.

    model.…          all parameters and buffers: space, objectives of every stage, states
    optimiser.…      moments of the optimiser of the round in progress
    best.…           the weights that did best in this round so far
    random.…         torch's random numbers

and, in its header, the place (stage, round, epoch, step) and all sums and histories up to it. The
order of the clips and all that objectives draw follow from the place and the seed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from store import atomic
from store.errors import InputError

NAME = "checkpoint.safetensors"


def save(run_dir: Path, tensors: Mapping[str, Mapping[str, Tensor]], facts: Any) -> None:
    """Replace the checkpoint by these tensors, by group, and facts."""
    flat = {
        f"{group}.{key}": value.detach().cpu().contiguous()
        for group, of_group in tensors.items()
        for key, value in of_group.items()
    }
    data = serialised(flat, metadata={"facts": json.dumps(facts)})
    atomic.write_bytes(run_dir / NAME, data, durable=True)


def load(run_dir: Path) -> tuple[dict[str, dict[str, Tensor]], Any] | None:
    """Tensors by group, and the facts; None if no checkpoint was written yet.

    Raises:
        InputError: the file is damaged.
    """
    path = run_dir / NAME
    if not path.is_file():
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            for name in file.keys():  # noqa: SIM118
                group, _, key = name.partition(".")
                groups.setdefault(group, {})[key] = file.get_tensor(name)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as fault:
        raise InputError(
            f"{path} is damaged ({fault}); delete it to start this training again"
        ) from None
    return groups, facts


def remove(run_dir: Path) -> None:
    """Delete the checkpoint of a finished training, and what a kill left of one."""
    for path in (run_dir / NAME, *run_dir.glob(f".{NAME}*.unfinished")):
        path.unlink(missing_ok=True)


def pack_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments, by number of the parameter."""
    return {
        f"{number}.{key}": torch.as_tensor(value)
        for number, of_one in optimiser.state_dict()["state"].items()
        for key, value in of_one.items()
        if value is not None
    }


def unpack_optimiser(optimiser: torch.optim.Optimizer, packed: Mapping[str, Tensor]) -> None:
    """Give an optimiser the moments that `pack_optimiser` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in packed.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
