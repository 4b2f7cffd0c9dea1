"""A training's directory: what it holds, written in order, `done.json` last; and reading it back.

    config.json                the complete recipe, its name, and their digest
    provenance.json            store, features, clips trained on, seed, code, versions, device
    metrics.jsonl              a line per step, epoch and round, told apart by `event`
    checkpoint.safetensors     where an unfinished training stands; see learn/training/checkpoint.py
    weights.safetensors        the space and the last stage's objective
    bank.safetensors           what outlives a stage, such as a memory bank; where there is any
    labels.csv                 vectors of class names, where the training was given them
    done.json                  digests of the files above
    .lock                      held by the process that trains here

Every file appears whole or not at all, and lasts before the next one is begun.

Shapes: V = clips, E = embedding size.
"""

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from learn.data import class_embeddings, records
from learn.data.class_embeddings import ClassEmbeddings
from learn.data.rows import Rows
from learn.fewshot.guard import Worth
from learn.fewshot.mode_pairs import modality_of
from learn.models.embedder import Embedder
from learn.training import recipe as recipes
from learn.training.metrics_log import NAME as METRICS
from learn.training.name_regression import Names
from learn.training.objectives import Objective, ObjectiveContext, Texts
from learn.training.objectives._none import NoObjective
from learn.training.run_files import BEFORE, check_finished
from learn.training.run_files import CONFIG as CONFIG
from learn.training.run_files import DONE as DONE
from learn.training.run_files import PROVENANCE as PROVENANCE
from learn.training.run_files import WEIGHTS as WEIGHTS
from learn.training.run_files import refuse_existing as refuse_existing
from store import atomic, plugins
from store.errors import ConfigError, InputError, MicroshotError
from store.lock import alone

if TYPE_CHECKING:
    from store import Feature

LOCK = ".lock"
FILES = (CONFIG, PROVENANCE, METRICS, WEIGHTS)
BANK = "bank.safetensors"
LABELS = "labels.csv"
# What a resumed training's provenance shares with that of its beginning.
SAME = (
    "store_id", "features", "dims", "clips_sha256", "val_clips", "labels_sha256", "init_sha256",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A finished training, read back."""

    path: Path
    features: Mapping[str, str]  # sense -> the feature it was trained on
    space: Embedder
    trained_on: frozenset[str]  # ids of clips that gave gradients or chose the best epoch
    fitted_on: frozenset[str]  # ids of those that gave gradients
    classes: tuple[str, ...]  # of the training, in the order of their ids
    objective: Objective  # of the last stage, as it ended
    labels: ClassEmbeddings | None  # vectors of class names, of those trained on and others

    def check(self, feature: "Feature") -> None:
        """Refuse a feature that the towers were not trained on.

        Raises:
            InputError: names both.
        """
        wanted = self.features_of(feature.modality)
        if wanted and feature.name not in wanted:
            raise InputError(
                f"{self.path} was trained on {' and '.join(wanted)}, not on {feature.name}; use "
                f"{'those' if len(wanted) > 1 else 'that feature'} or train again"
            )

    def features_of(self, modality: str) -> tuple[str, ...]:
        """The features of a modality that it was trained on, in the order of their senses."""
        return tuple(
            name for sense, name in self.features.items() if modality_of(sense) == modality
        )

    def embed(self, rows: Mapping[str, Rows]) -> dict[str, Float[Tensor, "V _"]]:
        """Unit vectors in the common space for every clip: visual, audio, and av of a network
        that makes one vector of both."""
        known = {m: stored for m, stored in rows.items() if m in self.features}
        return {name: F.normalize(x, dim=-1) for name, x in self.space.embed(known).items()}

    @property
    def knows_names(self) -> bool:
        """True if the run can map class names into its space."""
        return self.labels is not None and isinstance(self.objective, Texts)

    def class_embeddings(self, names: Sequence[str]) -> Float[Tensor, "C E"]:
        """Unit vectors in the common space for these class names, whether trained on or not.

        Raises:
            ConfigError: the run was trained without class texts.
            InputError: lists the names without a vector.
        """
        if self.labels is None or not isinstance(self.objective, Texts):
            raise ConfigError(
                f"{self.path} has no way from class names into its space; train a recipe with "
                "texts: learn train DIR --recipe cjme --labels FILE -o RUN"
            )
        with torch.inference_mode():
            texts = torch.from_numpy(self.labels.of(names))
            return F.normalize(self.objective.eval().embed_texts(texts), dim=-1)

    def worth_of_names(self, mode: str) -> Worth:
        """What a class name is worth beside clips seen in this mode, before classes are asked."""
        return self.objective.worth(mode) if isinstance(self.objective, Names) else Worth()

    def has_name(self, name: str) -> bool:
        """True if the run was given a vector of this class name."""
        return self.labels is not None and self.labels.has(name)

    def names_of_clips(
        self, class_ids: Int[np.ndarray, "V"], classes: Sequence[str]
    ) -> Float[Tensor, "V E"] | None:
        """The unit vector of every clip's class name; zeros where it has no class (-1), and None
        where the run has no way from names, or one of these has no vector."""
        if not self.knows_names:
            return None
        present = np.unique(class_ids[class_ids >= 0])
        try:
            known = self.class_embeddings([classes[c] for c in present.tolist()])
        except InputError:
            return None
        found = known.new_zeros(len(class_ids), known.shape[1])
        there = class_ids >= 0
        found[torch.from_numpy(there)] = known[np.searchsorted(present, class_ids[there])]
        return found


@contextmanager
def held(run_dir: Path, *, new: bool) -> Iterator[None]:
    """Hold a training's directory alone, made if need be.

    One that was made here and ends before its first step is gone again: nothing is left that
    would be in the way of the next try.

    Raises:
        InputError: another process trains in it, or it is to be `new` and is there.
    """
    made = not run_dir.exists()
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        run_dir.mkdir(exist_ok=not new)
    except FileExistsError:
        raise InputError(f"{run_dir} exists; name a new directory") from None
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(run_dir / LOCK))
        except BlockingIOError:
            raise InputError(
                f"another process trains in {run_dir}; wait for it, or name a new directory"
            ) from None
        try:
            yield
        except BaseException:
            if made:
                _remove_unbegun(run_dir)
            raise


def _remove_unbegun(run_dir: Path) -> None:
    """Remove a directory in which no step was made, but for files that are not ours."""
    metrics = run_dir / METRICS
    if metrics.is_file() and metrics.stat().st_size:
        return
    for name in (CONFIG, PROVENANCE, LABELS, METRICS, BEFORE, LOCK):
        with suppress(OSError):
            (run_dir / name).unlink()
    with suppress(OSError):
        run_dir.rmdir()


def begin(
    run_dir: Path, config: Mapping[str, Any], provenance: Mapping[str, Any]
) -> records.TrainingDone | None:
    """Write what is trained, or check that the directory is of this very training; what its
    `done.json` says if it is done.

    Raises:
        InputError: another recipe, store or clips, or files that are not ours.
    """
    if not (run_dir / PROVENANCE).is_file():
        write_json(run_dir / CONFIG, config)
        write_json(run_dir / PROVENANCE, provenance)
        return None
    now = json.loads(json.dumps({"config": config, "provenance": provenance}))
    if records.read(run_dir / CONFIG, records.TrainingConfig)["sha256"] != now["config"]["sha256"]:
        raise _begun_with_another(run_dir, "recipe")
    then = records.read(run_dir / PROVENANCE, records.Provenance)
    for key in SAME:
        if then.get(key) != now["provenance"][key]:
            raise _begun_with_another(run_dir, key)
    if not (run_dir / DONE).is_file():
        return None
    done: records.TrainingDone = records.read(run_dir / DONE, records.TrainingDone)
    return done


def _begun_with_another(run_dir: Path, difference: str) -> InputError:
    return InputError(
        f"{run_dir} was begun with another {difference}; "
        "go on with the same, or name a new directory"
    )


def write_labels(run_dir: Path, known: ClassEmbeddings | None) -> None:
    """The vectors of class names that the training was given, if any."""
    if known is not None:
        class_embeddings.write(run_dir / LABELS, known)


def write_json(path: Path, content: Any) -> None:
    """Write JSON that is the same bytes for the same content."""
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    atomic.write_text(path, text, durable=True)


def write_weights(run_dir: Path, modules: Mapping[str, nn.Module]) -> None:
    """All parameters and buffers, each under its module's name; those of "" under their own."""
    atomic.write_bytes(run_dir / WEIGHTS, save(_flat(modules)), durable=True)


def write_bank(
    run_dir: Path, states: Mapping[str, nn.Module], clips: Sequence[str], clips_sha256: str
) -> None:
    """Write the states that outlive a stage, with the ids of the clips of their rows."""
    if states:
        # One key: the order of several differs from write to write.
        about = json.dumps({"clips": list(clips), "clips_sha256": clips_sha256})
        data = save(_flat(states), metadata={"about": about})
        atomic.write_bytes(run_dir / BANK, data, durable=True)


def _flat(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}" if name else key: value.detach().cpu().contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def finish(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Declare the run complete: from now on readers accept it."""
    known = (*FILES, BANK, LABELS)
    written = [name for name in known if name in FILES or (run_dir / name).is_file()]
    digests = {name: _sha256(run_dir / name) for name in written}
    write_json(run_dir / DONE, {"files": digests, **facts})


def load_run(path: Path) -> Run:
    """A finished run.

    Raises:
        MissingFile: no run is there, or one that never finished.
        InputError: a file is not what the run wrote.
    """
    check_finished(path)
    try:
        _check_unchanged(path)
        return _restored(path)
    except MicroshotError:
        raise
    except (
        OSError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError,
        SafetensorError,
    ) as fault:  # fmt: skip
        raise InputError(f"{path} is not a run we can read ({fault}); train again") from None


def _check_unchanged(path: Path) -> None:
    """Compare the files of a run, all of them and no others, with what `done.json` says."""
    done: records.TrainingDone = records.read(path / DONE, records.TrainingDone)
    digests = done["files"]
    present = [name for name in (BANK, LABELS) if (path / name).is_file()]
    if set(digests) != {*FILES, *present}:
        raise InputError(
            f"{path / DONE} does not list the files of a run ({', '.join((*FILES, *present))}); "
            "train again"
        )
    for name, digest in digests.items():
        if _sha256(path / name) != digest:
            raise InputError(f"{path / name} was changed since the run finished; train again")


def _restored(path: Path) -> Run:
    """The run, its networks with the weights that the training left."""
    provenance: records.Provenance = records.read(path / PROVENANCE, records.Provenance)
    config: records.TrainingConfig = records.read(path / CONFIG, records.TrainingConfig)
    recipe = recipes.saved(config["recipe"], source=str(path))
    weights = load_file(path / WEIGHTS)
    known = class_embeddings.read(path / LABELS) if (path / LABELS).is_file() else None
    classes = tuple(provenance["classes"])
    with torch.random.fork_rng(devices=[]):
        embedder = Embedder(recipe.projection, recipe.network, provenance["dims"])
        objective: Objective = NoObjective()
        if recipes.knows_names(recipe) and known is not None:
            objective = Names(known.vectors.shape[1])
        if recipe.stages:
            objective = build_objective(
                recipe.stages[-1],
                embedder,
                dims=provenance["dims"],
                classes=classes,
                clips=len(provenance["clips"]),
                known=known,
                states={},
            )
    of = "objective."
    embedder.load_state_dict({k: v for k, v in weights.items() if not k.startswith(of)})
    objective.load_state_dict(
        {k.removeprefix(of): v for k, v in weights.items() if k.startswith(of)}
    )
    clips, before = frozenset(provenance["clips"]), provenance.get("init")
    return Run(
        path=path,
        features=provenance["features"],
        space=embedder.eval(),
        trained_on=clips.union(provenance["val_clips"], before["trained_on"] if before else ()),
        fitted_on=clips.union(before["fitted_on"] if before else ()),
        classes=classes,
        objective=objective.eval(),
        labels=known,
    )


def take_space(embedder: Embedder, run: Run, features: Mapping[str, str]) -> None:
    """Give an embedder the weights, means and deviations of a run's.

    Raises:
        ConfigError: the run embeds other features, or by other projections or networks.
    """
    for modality, name in features.items():
        if run.features.get(modality) != name:
            raise ConfigError(
                f"{run.path} was trained on {run.features.get(modality, f'no {modality}')}, and "
                f"this training has {name}; a run is begun from one of the same features"
            )
    theirs, ours = run.space.state_dict(), embedder.state_dict()
    for name in sorted({*theirs, *ours}):
        shapes = [tuple(state[name].shape) if name in state else None for state in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{run.path} has another projection or network: {name} is {shapes[1]} there and "
                f"{shapes[0]} here; name its settings with `setting`"
            )
    embedder.load_state_dict(theirs)


def build_objective(
    stage: recipes.Stage,
    embedder: Embedder,
    *,
    dims: Mapping[str, int],
    classes: tuple[str, ...],
    clips: int,
    known: ClassEmbeddings | None,
    states: dict[str, nn.Module],
) -> Objective:
    """A stage's objective for these classes.

    Raises:
        InputError: class names without a vector.
        ConfigError: from the objective.
    """
    context = ObjectiveContext(
        outputs=embedder.outputs,
        hidden=embedder.hidden,
        inputs=dims,
        classes=classes,
        clips=clips,
        texts=None if known is None else torch.from_numpy(known.of(classes)),
        views=stage.views.copies,
        states=states,
    )
    built: Objective = plugins.build("learn.training.objectives", stage.objective, context)
    return built


def _sha256(path: Path) -> str:
    """The digest of a regular file.

    Raises:
        InputError: it is a link, a device or a pipe, which need not end.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise InputError(f"{path} is no regular file; train again")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
