"""`learn finetune`: encoders learn from clips, as a recipe says.

    config.json, provenance.json     the recipe; encoders, clips and their media, code, versions
    metrics.jsonl                    a line per step and epoch
    before.safetensors               vectors of val clips before the first step
    checkpoint.safetensors           where an unfinished training stands
    visual.safetensors, audio.safetensors    the weights, for `extract run`
    done.json                        the result; last

This module gathers what a training needs and writes what comes of it; `learn/finetuning/loop.py`
trains.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from learn.finetuning import gains, material
from learn.finetuning import recipe as recipes
from learn.finetuning.loop import Trainer
from learn.finetuning.masked import Masked
from learn.finetuning.material import Material, Plan, looks_of
from learn.finetuning.protocols import Learner, Progress, Source, Stream
from learn.finetuning.recipe import Recipe
from learn.finetuning.towers import Towers
from learn.training import checkpoint, runs
from learn.training.objectives import Objective, ObjectiveContext, Traits
from learn.training.run_files import BEFORE, CONFIG, DONE, PROVENANCE
from learn.training.train import code
from store import Manifest, atomic, plugins
from store.errors import ConfigError, InputError
from store.membership import Membership
from store.sizes import parse_size

FAMILY = "learn.training.objectives"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """The result of a training of encoders."""

    run: str
    recipe: str
    clips: int
    classes: int  # that were learnt from; 0: without labels
    val_clips: int
    failed: Mapping[str, int]  # clips that could not be learnt from, by kind
    epochs: int
    steps: int
    loss: float  # of the last epoch
    seconds: float  # of this call
    frames_per_second: float  # of the steps of this call
    specs: Mapping[str, str]  # by modality: what `extract run` takes
    validation: str  # the episodes before and after, in words
    gains: Sequence[Mapping[str, Any]] = field(default=())  # see `gains.measure`

    def to_dict(self) -> dict[str, Any]:
        """All fields, as `--json` and `done.json` have them."""
        return asdict(self)


def finetune(
    manifest: Manifest,
    recipe: str | Path,
    *,
    learners: Mapping[str, Learner],
    source: Source,
    run_dir: str | Path,
    settings: Sequence[str] = (),
    resume: bool = False,
    device: torch.device,
    checkpoint_seconds: float = 30.0,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Finetuned:
    """Train the encoders on clips of the manifest, into a new directory.

    The same clips, encoders, recipe and seed give the same bytes on one machine with one number of
    threads, on a processor; so does a training that was killed and goes on with `resume`.

    Raises:
        KeyboardInterrupt: it was stopped; there is a checkpoint.
        InputError: clips that cannot be learnt from; a directory that exists, or is of another
            training; a step whose loss is no number.
        ConfigError: settings, encoders or objectives that do not go together.
    """
    begun, run_dir = time.monotonic(), Path(run_dir)
    if not resume:
        runs.refuse_existing(run_dir)
    recipe_ = recipes.load(recipe, settings)
    looks = looks_of(recipe_)
    recipes.check_encoders(recipe, recipe_, list(learners))
    traits = _traits(recipe_)
    supervised = any(trait.supervised for trait in traits)
    with runs.held(run_dir, new=not resume):
        stream = source(looks=looks, memory_bytes=parse_size(recipe_.data.memory))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe_.optimiser.seed)
            towers = Towers(learners=learners, recipe=recipe_, device=device)
            found = material.survey(
                manifest, stream, recipe_, list(learners), supervised=supervised,
                pairs=any(trait.of_class for trait in traits), progress=progress,
            )  # fmt: skip
            states: dict[str, nn.Module] = {}
            masked = None if recipe_.masked is None else Masked(learners, recipe_.masked)
            objectives = _objectives(recipe_, towers, found, states)
            if done := _begin(run_dir, recipe, recipe_, settings, learners, found, device):
                known = {f.name: done[f.name] for f in fields(Finetuned) if f.name in done}
                return Finetuned(**known)
            before = _before(run_dir, learners, stream, found)
            trainer = Trainer(
                run_dir=run_dir, towers=towers, stream=stream, masked=masked,
                plan=Plan(material=found, recipe=recipe_, looks=looks),
                weighted=recipe_.objectives, objectives=objectives, states=states, device=device,
                checkpoint_seconds=checkpoint_seconds, stop=stop, progress=progress,
            )  # fmt: skip
            trainer.run()
        towers.eval()
        specs = _write(run_dir, Path(recipe).stem, recipe_, towers, found)
        rows: list[dict[str, Any]] = []
        if found.val is not None and found.val_rows is not None:
            after = gains.vectors(learners, stream, found.val_rows)
            rows = gains.measure(before, after, found.val, recipe_.optimiser.seed + 1)
        last = trainer.state.rounds[-1][-1]
        result = Finetuned(
            run=str(run_dir), recipe=Path(recipe).stem, clips=len(found.clips),
            classes=len(found.clips.classes) if supervised else 0,
            val_clips=len(found.val) if found.val is not None else 0, failed=found.failed,
            epochs=recipe_.optimiser.epochs, steps=trainer.state.steps, loss=last["loss"],
            seconds=round(time.monotonic() - begun, 3),
            frames_per_second=round(trainer.frames_per_second, 1), specs=specs,
            validation=found.validation, gains=rows,
        )  # fmt: skip
        runs.write_json(run_dir / DONE, result.to_dict())
        checkpoint.remove(run_dir)
        return result


def _traits(recipe: Recipe) -> list[Traits]:
    """What the objectives need of the clips.

    Raises:
        ConfigError: they are for other clips.
    """
    traits = [plugins.module(FAMILY, of.spec.name).TRAITS for of in recipe.objectives]
    if any(trait.several_labels for trait in traits):
        raise ConfigError("objectives for clips with several labels are not for encoders")
    return traits


def _objectives(
    recipe: Recipe, towers: Towers, found: Material, states: dict[str, nn.Module]
) -> list[Objective]:
    context = ObjectiveContext(
        outputs=towers.outputs, inputs=towers.dims, classes=found.clips.classes,
        clips=len(found.clips), views=recipe.data.copies, states=states,
    )  # fmt: skip
    return [plugins.build(FAMILY, of.spec, context) for of in recipe.objectives]


def _begin(
    run_dir: Path, name: str | Path, recipe: Recipe, settings: Sequence[str],
    learners: Mapping[str, Learner], found: Material, device: torch.device,
) -> Mapping[str, Any] | None:  # fmt: skip
    """Write what is trained, or check that the directory is of this very training; what its
    `done.json` says if it is done.

    Raises:
        InputError: another recipe, encoders or clips.
    """
    plain = recipe.to_dict()
    config = {"recipe": plain, "from": str(name), "set": list(settings), "sha256": _digest(plain)}
    provenance = {
        "encoders": {
            m: {"spec": x.spec, "identity": dict(x.identity)} for m, x in learners.items()
        },
        "split": found.clips.split,
        "clips": found.clips.ids,
        "media": [found.media[clip].hex() for clip in found.clips.ids],
        "clips_sha256": found.sha256,
        "classes": found.clips.classes,
        "val_clips": found.val.ids if found.val is not None else (),
        "failed": dict(found.failed),
        "seed": recipe.optimiser.seed,
        "code_sha256": code(),
        "versions": {name: version(name) for name in ("microshot", "torch", "numpy")},
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    if not (run_dir / PROVENANCE).is_file():
        runs.write_json(run_dir / CONFIG, config)
        runs.write_json(run_dir / PROVENANCE, provenance)
        return None
    now = json.loads(json.dumps({"config": config, "provenance": provenance}))
    for path, key, part in (
        (CONFIG, "sha256", "config"), (PROVENANCE, "encoders", "provenance"),
        (PROVENANCE, "clips_sha256", "provenance"), (PROVENANCE, "val_clips", "provenance"),
    ):  # fmt: skip
        try:
            then = json.loads((run_dir / path).read_text())[key]
        except (ValueError, KeyError, TypeError) as fault:
            raise InputError(f"{run_dir / path} is damaged ({fault}); train anew") from None
        if then != now[part][key]:
            what = "recipe" if path == CONFIG else key
            raise InputError(
                f"{run_dir} was begun with another {what}; go on with the same, or name a new "
                "directory"
            )
    if not (run_dir / DONE).is_file():
        return None
    facts: Mapping[str, Any] = json.loads((run_dir / DONE).read_text())
    return facts


def _before(
    run_dir: Path, learners: Mapping[str, Learner], stream: Stream, found: Material
) -> dict[str, Tensor]:
    """Vectors of val clips before the first step, which a resumed training reads."""
    if found.val_rows is None:
        return {}
    path = run_dir / BEFORE
    if path.is_file():
        return load_file(path)
    vectors = gains.vectors(learners, stream, found.val_rows)
    atomic.write_bytes(path, save(vectors), durable=True)
    return vectors


def _write(
    run_dir: Path, name: str, recipe: Recipe, towers: Towers, found: Material
) -> dict[str, str]:
    """Write every encoder's weights; the SPEC of each."""
    media = Membership.of(found.media[clip] for clip in found.clips.ids)
    return {
        modality: learner.write(
            run_dir / f"{modality}.safetensors", recipe=name,
            recipe_sha256=_digest(recipe.to_dict()), clips_sha256=found.sha256, media=media,
            head=towers.head_tensors(modality),
        )
        for modality, learner in towers.learners.items()
    }  # fmt: skip


def _digest(plain: Mapping[str, Any]) -> str:
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
