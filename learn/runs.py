"""A training's directory: what it holds, written in order, `done.json` last; and reading it back.

    config.json            the complete recipe, its name, and their digest
    metrics.jsonl          one line per epoch
    weights.safetensors    towers and objective
    provenance.json        store, features, clips trained on, versions
    done.json              digests of the files above

Shapes: V = clips, E = embedding size.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from learn import recipe as recipes
from learn.data import Rows
from learn.tower import Tower
from store import plugins
from store.errors import InputError, MicroshotError, MissingFile

if TYPE_CHECKING:
    from store import Feature

FILES = ("config.json", "metrics.jsonl", "weights.safetensors", "provenance.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A finished training, read back."""

    path: Path
    features: Mapping[str, str]  # modality -> the feature it was trained on
    towers: Mapping[str, Tower]
    trained_on: frozenset[str]  # ids of clips that gave gradients or chose the best epoch

    def check(self, feature: "Feature") -> None:
        """Refuse a feature that the towers were not trained on.

        Raises:
            InputError: names both.
        """
        wanted = self.features.get(feature.modality)
        if wanted not in (None, feature.name):
            raise InputError(
                f"{self.path} was trained on {wanted}, not on {feature.name}; use that feature "
                "or train again"
            )

    def embed(self, rows: Mapping[str, Rows]) -> dict[str, Float[Tensor, "V E"]]:
        """A unit vector in the common space for every clip, per modality it was trained on."""
        return {
            modality: F.normalize(tower.embed(rows[modality]), dim=-1)
            for modality, tower in self.towers.items()
            if modality in rows
        }


def make(run_dir: Path) -> None:
    """Make a new run directory.

    Raises:
        InputError: something is there already.
    """
    refuse_existing(run_dir)
    run_dir.mkdir(parents=True)


def refuse_existing(run_dir: Path) -> None:
    """Ask before long work, not after it.

    Raises:
        InputError: something is there already.
    """
    if run_dir.exists():
        raise InputError(f"{run_dir} exists; name a new directory with -o")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_weights(run_dir: Path, modules: Mapping[str, nn.Module]) -> None:
    """All parameters and buffers, each under its module's name."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    save_file(tensors, run_dir / "weights.safetensors")


def finish(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Declare the run complete: from now on readers accept it."""
    digests = {name: _sha256(run_dir / name) for name in FILES}
    unfinished = run_dir / "done.json.unfinished"
    write_json(unfinished, {"files": digests, **facts})
    unfinished.replace(run_dir / "done.json")


def load_run(path: Path) -> Run:
    """A finished run.

    Raises:
        MissingFile: no run is there, or one that never finished.
        InputError: a file is not what the run wrote.
    """
    if not (path / "config.json").is_file():
        raise MissingFile(f"no run {path}; make one with: learn train DIR --recipe NAME -o {path}")
    if not (path / "done.json").is_file():
        raise MissingFile(f"{path} is unfinished (no done.json); train again into a new directory")
    try:
        for name, digest in json.loads((path / "done.json").read_text())["files"].items():
            if _sha256(path / name) != digest:
                raise InputError(f"{path / name} was changed since the run finished; train again")
        config = json.loads((path / "config.json").read_text())
        provenance = json.loads((path / "provenance.json").read_text())
        recipe = recipes.from_tables(config["recipe"], where=str(path))
        weights = load_file(path / "weights.safetensors")
        towers = {m: _tower(m, recipe.projection, weights) for m in provenance["features"]}
    except MicroshotError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as fault:
        raise InputError(f"{path} is not a run we can read ({fault}); train again") from None
    return Run(
        path=path,
        features=provenance["features"],
        towers=towers,
        trained_on=frozenset(provenance["clips"]) | frozenset(provenance["val_clips"]),
    )


def _tower(modality: str, projection: plugins.Spec, weights: Mapping[str, Tensor]) -> Tower:
    own = {
        k.removeprefix(f"{modality}."): v
        for k, v in weights.items()
        if k.startswith(f"{modality}.")
    }
    with torch.random.fork_rng(devices=[]):
        tower = Tower(projection, dim_in=len(own["mean"]))
    tower.load_state_dict(own)
    return tower.eval()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
