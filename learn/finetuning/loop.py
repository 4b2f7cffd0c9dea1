"""The loop that trains encoders: epochs, steps, metrics and checkpoints.

Shapes: B = clips of a batch.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from learn.finetuning import optimisers
from learn.finetuning.masked import Masked
from learn.finetuning.material import Plan
from learn.finetuning.protocols import Progress, Stream
from learn.finetuning.recipe import Weighted
from learn.finetuning.towers import Inputs, Loss, Towers, Vectors
from learn.training import checkpoint
from learn.training.metrics_log import NAME as METRICS
from learn.training.metrics_log import MetricsLog, check_finite
from learn.training.objectives import Batch, EpochStart, Objective, TrainingEmbeddings
from learn.training.optimisers import learning_rate
from learn.training.state import TrainerState
from store.errors import ConfigError


@dataclass(slots=True, kw_only=True, eq=False)
class StepLoss(Loss):
    """The objectives of a recipe, on the vectors of one step."""

    trainer: "Trainer"
    clips: Int64[np.ndarray, "B"]
    seed: int
    seen: Batch | None = field(default=None, init=False)  # what the terms were last made of

    @property
    def of_vectors(self) -> bool:  # type: ignore[override]
        """Whether it is the objectives' and not a decoder's."""
        return self.trainer.masked is None

    def of_inputs(self, inputs: Inputs, start: int) -> dict[str, Tensor]:
        """What a decoder makes of patches that it does not see."""
        assert self.trainer.masked is not None
        return {"masked": self.trainer.masked(inputs["visual"][0], self.seed, start)}

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """The terms of every objective, weighted."""
        self.seen = batch = self.batch(vectors)
        return {
            f"{of.spec.name}.{name}": of.weight * term
            for of, objective in zip(self.trainer.weighted, self.trainer.objectives, strict=True)
            for name, term in objective.terms(batch).items()
        }

    def batch(self, vectors: Vectors) -> Batch:
        """The step as objectives see it."""
        trainer, clips = self.trainer, torch.from_numpy(self.clips)
        heads = trainer.towers.heads
        copies = [
            {m: heads[m](x[copy]) for m, x in vectors.items()}
            for copy in range(len(next(iter(vectors.values()))))
        ]
        return Batch(
            embeddings=copies[0],
            labels=torch.from_numpy(trainer.plan.material.clips.class_ids)[clips]
            .long()
            .to(trainer.device),
            clips=clips.to(trainer.device),
            copies=tuple(copies),
            seed=self.seed,
        )

    def parameters(self) -> Iterable[nn.Parameter]:
        """Everything that learns."""
        return self.trainer.model.parameters()


@dataclass(slots=True, kw_only=True, eq=False)
class Trainer:
    """Runs a recipe: encoders, clips, optimiser, state and log of one training."""

    run_dir: Path
    towers: Towers
    plan: Plan
    stream: Stream
    weighted: Sequence[Weighted]
    objectives: Sequence[Objective]
    states: Mapping[str, nn.Module]  # that objectives keep, such as a bank
    masked: Masked | None  # in the place of objectives
    device: torch.device
    checkpoint_seconds: float
    stop: Callable[[], bool]
    progress: Progress | None = None
    state: TrainerState = field(default_factory=TrainerState)
    model: nn.ModuleDict = field(init=False)
    optimiser: torch.optim.Optimizer = field(init=False)
    log: MetricsLog = field(init=False)
    frames_per_second: float = field(default=0.0, init=False)  # of this call
    _saved: float = field(default=0.0, init=False)
    _done_before: int = field(default=0, init=False)  # epochs, by earlier calls

    def __post_init__(self) -> None:
        learners = self.towers.learners
        parts = {f"encoder_{m}": learner.module for m, learner in learners.items()}
        parts |= {f"head_{m}": head for m, head in self.towers.heads.items()}
        parts |= {f"objective{i}": objective for i, objective in enumerate(self.objectives)}
        parts |= {f"state_{name}": state for name, state in self.states.items()}
        decoders = [] if self.masked is None else [self.masked.decoder]
        parts |= {f"decoder{i}": decoder for i, decoder in enumerate(decoders)}
        self.model = nn.ModuleDict(parts).to(self.device)
        settings = self.plan.recipe.optimiser
        networks = [learner.module for learner in learners.values()]
        others = [self.towers.heads, *self.objectives, *decoders]
        groups = optimisers.groups(networks, others, settings)
        self.optimiser = optimisers.make_optimiser(groups, settings)

    def run(self) -> None:
        """Train from where the checkpoint says, if there is one, to the end."""
        self._resume()
        self.log = MetricsLog(path=self.run_dir / METRICS, state=self.state)
        self.log.begin()
        self._saved, begun, seen = time.monotonic(), time.monotonic(), 0
        with closing(self._steps()) as steps:
            for epoch, step, count, clips, inputs in steps:
                self._step(epoch, step, count, clips, inputs)
                seen += len(clips) * self.plan.recipe.data.drawn
                self.frames_per_second = seen / (time.monotonic() - begun)
                self._tell(step, count)
                if step + 1 == count:
                    self._end_epoch(begun)
                if self.stop():
                    self._save()
                    raise KeyboardInterrupt
                if time.monotonic() - self._saved >= self.checkpoint_seconds:
                    self._save()

    def _steps(
        self,
    ) -> Generator[tuple[int, int, int, Int64[np.ndarray, "B"], Inputs], None, None]:
        """Epoch, step, steps of the epoch, clips and inputs of every step that is left; the inputs
        of the next one are made while one is learnt from."""
        plan, first = self.plan, self.state
        start, skip = first.epoch, first.step

        def made() -> Generator[Any, None, None]:
            with closing(self.stream.read(lambda: plan.ahead(start, skip))) as clips:
                for epoch in range(start, plan.recipe.optimiser.epochs):
                    batches = plan.batches(epoch)
                    for step in range(skip if epoch == start else 0, len(batches)):
                        seen = list(islice(clips, len(batches[step])))
                        generator = torch.Generator().manual_seed(self._seed(epoch, step))
                        inputs = self.towers.inputs(seen, generator)
                        yield epoch, step, len(batches), batches[step], inputs

        source = made()
        with closing(source), ThreadPoolExecutor(1, thread_name_prefix="copies") as pool:
            coming = pool.submit(next, source, None)
            while (found := coming.result()) is not None:
                coming = pool.submit(next, source, None)
                yield found

    def _seed(self, epoch: int, step: int) -> int:
        position = [self.plan.recipe.optimiser.seed, 1, epoch, step]
        return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> 1)

    def _step(
        self, epoch: int, step: int, count: int, clips: Int64[np.ndarray, "B"], inputs: Inputs
    ) -> None:
        state, settings = self.state, self.plan.recipe.optimiser
        if step == 0:
            if not state.rounds:
                state.rounds.append([])
            with torch.no_grad():
                state.begin_epoch(self._prepared(epoch))
        rate = learning_rate(settings, epoch + step / count)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.towers.train()
        for objective in self.objectives:
            objective.train()
        self.optimiser.zero_grad()
        loss = StepLoss(trainer=self, clips=clips, seed=self._seed(epoch, step) ^ 1)
        terms = self.towers.backward(inputs, loss)
        self.optimiser.step()
        self._after_step(loss)
        state.epoch, state.step, state.steps = epoch, step + 1, state.steps + 1
        facts = {
            "event": "step", "stage": "main", "round": 0, "epoch": epoch, "step": state.steps,
            "clips": len(clips), "learning_rate": rate,
        }  # fmt: skip
        self.log.add_step(facts, terms)

    def _prepared(self, epoch: int) -> dict[str, float]:
        """What objectives say before an epoch."""
        start = EpochStart(round=0, epoch=epoch, seed=self._seed(epoch, 0), survey=_no_survey)
        told: dict[str, float] = {}
        for objective in self.objectives:
            told |= objective.prepare(start)
        return told

    def _after_step(self, loss: StepLoss) -> None:
        """Let objectives that keep states change them, by the vectors that gave the gradient."""
        for objective in self.objectives:
            assert loss.seen is not None
            objective.after_step(loss.seen)

    def _tell(self, step: int, count: int) -> None:
        if self.progress:
            epochs = self.plan.recipe.optimiser.epochs
            self.progress(
                self.state.epoch * count + step + 1, epochs * count,
                status=f"{self.frames_per_second:.0f} frames/s",
            )  # fmt: skip

    def _end_epoch(self, begun: float) -> None:
        state, epochs = self.state, self.plan.recipe.optimiser.epochs
        self.log.flush()
        self._check_weights()
        terms = state.means()
        row = {
            "event": "epoch", "stage": "main", "round": 0, "epoch": state.epoch,
            "step": state.steps, "loss": math.fsum(terms.values()), "terms": terms, **state.told,
        }  # fmt: skip
        self.log.write(row)
        state.rounds[-1].append(row)
        state.epoch, state.step = state.epoch + 1, 0
        if self.progress:
            done = len(state.rounds[-1])
            now = max(1, done - self._done_before)
            left = (time.monotonic() - begun) / now * (epochs - done)
            self.progress(
                state.steps, state.steps // done * epochs,
                f"epoch {done} of {epochs}: loss {row['loss']:.4f}, "
                f"{self.frames_per_second:.0f} frames/s, {_time(left)} left",
            )  # fmt: skip

    def _check_weights(self) -> None:
        """Refuse to keep weights that are no numbers: a loss may be finite, and not its slope."""
        largest = [p.detach().abs().amax() for p in self.model.parameters() if p.numel()]
        worst = torch.stack(largest).amax().item()
        check_finite([worst], self.state.steps, self.state.epoch, "after it weights are")

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────

    def _save(self) -> None:
        self.log.flush()
        self._check_weights()
        tensors = {
            "model": self.model.state_dict(),
            "optimiser": checkpoint.pack_optimiser(self.optimiser),
            "random": {"cpu": torch.get_rng_state()},
        }
        facts = {"state": self.state.to_dict(), "at_once": self.towers.at_once}
        checkpoint.save(self.run_dir, tensors, facts)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        """Go to where the checkpoint was taken, if there is one."""
        saved = checkpoint.load(self.run_dir)
        if saved is None:
            return
        tensors, facts = saved
        self.state = TrainerState(**facts["state"])
        self._done_before = self.state.epoch
        self.towers.at_once = facts["at_once"]
        self.model.load_state_dict({k: v.to(self.device) for k, v in tensors["model"].items()})
        checkpoint.unpack_optimiser(self.optimiser, tensors["optimiser"])
        torch.set_rng_state(tensors["random"]["cpu"])


def _no_survey() -> TrainingEmbeddings:
    """Refuse to look at all clips.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        "this objective looks at the embeddings of all clips before an epoch, which `learn train` "
        "does on stored rows; encoders cannot learn by it"
    )


def _time(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
