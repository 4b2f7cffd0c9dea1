"""The loop that trains: stages, rounds, epochs, steps; validation, metrics and checkpoints.

    stage    one objective and the parts that learn           recipe's [[stages]]
    round    a fresh optimiser, patience and best weights     `rounds` of a stage
    epoch    every clip once; `Objective.prepare` before it
    step     one batch; `Objective.after_step` after it

Shapes: B = clips of a batch, V = clips.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor, nn

from learn.data import batching
from learn.data.devices import sent
from learn.data.rows import Padded
from learn.data.streaming import AT_ONCE
from learn.models.embedder import Embedder
from learn.training import augment, checkpoint, unseen, validation
from learn.training.dataset import TrainingData
from learn.training.loggers import Logger
from learn.training.metrics_log import NAME as METRICS
from learn.training.metrics_log import MetricsLog, check_finite
from learn.training.objectives import Batch, EpochStart, Objective, TrainingEmbeddings
from learn.training.optimisers import learning_rate, make_optimiser
from learn.training.recipe import Stage
from learn.training.row_means import with_means
from learn.training.state import TrainerState
from store.errors import InputError

Progress = Callable[[int, int, str], None]


def never() -> bool:
    """That a training is not to stop."""
    return False


@dataclass(slots=True, kw_only=True, eq=False)
class Trainer:
    """Runs the stages of a recipe: model, data, optimiser, state and logs of one training."""

    run_dir: Path
    embedder: Embedder
    stages: Sequence[Stage]
    objectives: Sequence[Objective]  # of each stage
    states: Mapping[str, nn.Module]
    data: TrainingData
    val: TrainingData | None  # with the training's classes first
    seed: int
    device: torch.device
    checkpoint_seconds: float = 30.0
    progress: Progress | None = None
    loggers: Sequence[Logger] = ()
    stop: Callable[[], bool] = never  # asked after every step
    state: TrainerState = field(default_factory=TrainerState)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimiser: torch.optim.Optimizer | None = None
    # by stage: unseen, loss, episodes or none
    watches: Mapping[int, str] = field(default_factory=dict)
    # by stage: positions of its clips in `data`; none: all of them
    of_stages: Sequence[Int64[np.ndarray, "_"]] = ()
    model: nn.ModuleDict = field(init=False)
    labels: Int[Tensor, "V"] = field(init=False)
    log: MetricsLog = field(init=False)
    _saved: float = field(init=False)

    def __post_init__(self) -> None:
        names = {f"objective{i}": objective for i, objective in enumerate(self.objectives)}
        states = {f"state_{name}": state for name, state in self.states.items()}
        self.model = nn.ModuleDict({"space": self.embedder, **names, **states}).to(self.device)
        self.labels = torch.from_numpy(self.data.clips.class_ids).long().to(self.device)
        self._saved = time.monotonic()

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Train from where the state says to the end, and leave the best weights in."""
        resumed = self._resume()
        self.data, self.val = with_means(self.embedder, self.stages, self.data, self.val)
        self.log = MetricsLog(path=self.run_dir / METRICS, state=self.state, loggers=self.loggers)
        self.log.begin()
        while self.state.stage < len(self.stages):
            while self.state.round < self.stages[self.state.stage].rounds:
                self._round(resumed)
                resumed = False
                self.state.round += 1
            self.state.stage, self.state.round = self.state.stage + 1, 0

    def _round(self, resumed: bool) -> None:
        state, stage = self.state, self.stages[self.state.stage]
        settings, objective = stage.optimiser, self.objectives[state.stage]
        if not resumed:
            state.begin_round()
            self.best, self.optimiser = {}, None
            if self._watch() == "unseen":
                self._judge_start(stage, objective)
        history = state.rounds[-1]
        while state.epoch < settings.epochs:
            if state.step == 0:
                self._freeze(stage, objective)
                start = EpochStart(
                    round=state.round, epoch=state.epoch, seed=self._seed(), survey=self._survey
                )
                with torch.no_grad():
                    state.begin_epoch(objective.prepare(start))
            if self.optimiser is None:
                self.optimiser = make_optimiser(settings, self._learning(stage, objective))
                self._log_round(stage, objective)
            self._epoch(stage, objective)
            history.append(self._judge(stage, objective))
            state.epoch, state.step = state.epoch + 1, 0
            late = settings.patience and state.epoch - 1 - self._highest() >= settings.patience
            if self._watch() != "none" and late:
                break
        if self.best:
            self.model.load_state_dict(self.best)

    def _epoch(self, stage: Stage, objective: Objective) -> None:
        """Do the steps of this epoch that are not yet done."""
        state, settings = self.state, stage.optimiser
        rng = np.random.default_rng([self.seed, state.stage, state.round, state.epoch])
        order = batching.Batching(
            batch_size=settings.batch_size, bucket=settings.bucket, ways=settings.ways,
            lengths=self.data.lengths, class_ids=self.data.clips.class_ids,
            disk_blocks=self.data.disk_blocks, at_once=AT_ONCE, members=self._members(),
        )  # fmt: skip
        windows = order.epoch(len(self.data.clips), rng)
        state.told |= {"fill": batching.fill(self.data.counts, windows)}
        steps = sum(len(window.batches) for window in windows)
        self._freeze(stage, objective)
        optimiser = self.optimiser
        assert optimiser is not None
        for step, indices, inputs in self._ahead(windows, state.step):
            rate = learning_rate(settings, state.epoch + step / steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = self.batch(self.data, indices, inputs, self.labels, stage, training=True)
            terms = objective.terms(batch) | self.embedder.penalties()
            optimiser.zero_grad()
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            optimiser.step()
            objective.after_step(batch)
            state.step, state.steps = step + 1, state.steps + 1
            step_facts = {
                "event": "step", "stage": stage.name, "round": state.round, "epoch": state.epoch,
                "step": state.steps, "clips": len(indices), "learning_rate": rate,
            }  # fmt: skip
            self.log.add_step(step_facts, terms)
            if step + 1 == steps:
                self.log.flush()
            if self.stop():
                self._save()
                raise KeyboardInterrupt
            self._save_if_due()

    def _members(self) -> Int64[np.ndarray, "_"] | None:
        """The clips of this stage; None where it has all."""
        members = self.of_stages[self.state.stage] if self.of_stages else None
        return None if members is None or len(members) == len(self.data.clips) else members

    def _ahead(
        self, windows: Sequence[batching.Window], first: int
    ) -> Iterator[tuple[int, Int[Tensor, "B"], dict[str, Padded]]]:
        """Number, clips and rows of the epoch's batches from `first` on.

        If torch computes on one core, another one gathers the rows of a batch while the one before
        is learnt from.
        """

        def prepared() -> Iterator[tuple[int, Int[Tensor, "B"], dict[str, Padded]]]:
            step = 0
            for i, window in enumerate(windows):
                if step + len(window.batches) <= first:
                    step += len(window.batches)
                    continue
                self.data.hold(window.indices, windows[i + 1].indices if windows[i + 1 :] else None)
                for batch in window.batches:
                    if step >= first:
                        yield step, batch, self.data.inputs(batch)
                    step += 1

        if self.data.means or self.device.type != "cpu" or torch.get_num_threads() > 1:
            yield from prepared()
            return
        source = prepared()
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            coming = pool.submit(next, source, None)
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, source, None)
                yield batch

    def batch(
        self,
        data: TrainingData,
        indices: Int[Tensor, "B"],
        inputs: dict[str, Padded],
        labels: Int[Tensor, "V"],
        stage: Stage,
        *,
        training: bool,
    ) -> Batch:
        """The batch of these clips, as the objective sees it. `indices` are on the CPU."""
        seed, views = self._seed(), stage.views
        generator = torch.Generator(self.device).manual_seed(seed)
        places = sent(indices, self.device)
        copies = []
        for _ in range(views.copies):
            seen = inputs
            if views.differ and (training or views.copies > 1):
                seen = {
                    m: augment.copy(x, self.embedder.of(m), views, generator)
                    for m, x in inputs.items()
                }
            copies.append(self.embedder(seen))
        known = self.embedder.outputs
        outputs = [{n: x for n, x in vectors.items() if n in known} for vectors in copies]
        return Batch(
            embeddings=outputs[0],
            hidden={n: x for n, x in copies[0].items() if n in self.embedder.hidden},
            targets=self._targets(data, indices),
            labels=labels[places],
            clips=places if data is self.data else torch.full_like(places, -1),
            inputs=data.stored(indices) if data.means else inputs,
            present={m: x.mask.any(1) for m, x in inputs.items()},
            copies=tuple(outputs),
            seed=seed,
        )

    def _targets(self, data: TrainingData, indices: Int[Tensor, "B"]) -> Tensor | None:
        """Every label of these clips, of the classes that training knows."""
        if data.clips.targets is None:
            return None
        known = data.clips.targets[:, : len(self.data.clips.classes)]
        return sent(torch.from_numpy(known[indices.numpy()]).float(), self.device)

    # ── what learns ──────────────────────────────────────────────────────────────────────────────

    def _learning(self, stage: Stage, objective: Objective) -> dict[str, nn.Parameter]:
        """Every parameter that this stage trains, by name."""
        parts = self._parts(stage, objective)
        return {
            f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters()
        }

    def _parts(self, stage: Stage, objective: Objective) -> dict[str, nn.Module]:
        names = stage.train or ("space", "objective")
        whole: dict[str, nn.Module] = {"space": self.embedder, "objective": objective}
        return {name: whole.get(name) or self.embedder.part(name) for name in names}

    def _freeze(self, stage: Stage, objective: Objective) -> None:
        """Let the stage's parts learn, and keep all others in eval mode without gradients, so that
        neither their dropout nor their batch statistics move."""
        self.model.eval()
        self.model.requires_grad_(False)
        for part in self._parts(stage, objective).values():
            part.train()
            part.requires_grad_(True)

    def _log_round(self, stage: Stage, objective: Objective) -> None:
        """Log how many parameters learn, and which of them the objective does not reach."""
        learning = self._learning(stage, objective)
        if not learning:
            raise InputError(f"stage {stage.name} trains no parameter; see its `train`")
        self.model.eval()  # so that dropout and batch statistics stay as they are
        members = self._members()
        every = np.arange(len(self.data.clips)) if members is None else members
        indices = torch.from_numpy(every[: stage.optimiser.batch_size])
        batch = self.batch(
            self.data, indices, self.data.inputs(indices), self.labels, stage, training=True
        )
        gradients = torch.autograd.grad(
            objective(batch), list(learning.values()), allow_unused=True
        )
        idle = [name for name, g in zip(learning, gradients, strict=True) if g is None]
        self.log.write(
            {
                "event": "round", "stage": stage.name, "round": self.state.round,
                "objective": stage.objective.name, "watch": self._watch(),
                "clips": len(every),
                "parameters": sum(p.numel() for p in learning.values()), "no_gradient": idle,
            }
        )  # fmt: skip

    # ── looking at all clips ─────────────────────────────────────────────────────────────────────

    def _survey(self) -> TrainingEmbeddings:
        rows = self.data.rows
        means = {m: self.embedder.of(m).standardised(stored.means()) for m, stored in rows.items()}
        return TrainingEmbeddings(
            embeddings=self.embedder.embed(self.data.seen), means=means, labels=self.labels
        )

    def _watch(self) -> str:
        return self.watches[self.state.stage] if self.val is not None else "none"

    def _judge(self, stage: Stage, objective: Objective) -> dict[str, Any]:
        """Validate and log the epoch; keep the weights if it was the best of its round."""
        state, watch = self.state, self._watch()
        self._check_weights()
        terms = state.means()
        val_loss = val_accuracy = None
        if self.val is not None and watch == "loss":
            val_loss = self._val_loss(self.val, stage, objective)
        elif self.val is not None and watch == "episodes":
            val_accuracy = validation.accuracy(
                self.embedder.embed(self.val.seen),
                self.val.clips,
                seed=self.seed,
                head=copy.deepcopy(objective).cpu().eval().head(),
            )
        elif watch == "unseen":
            scores = self._unseen_scores(objective)
            val_accuracy = scores.mean
            best = unseen.Scores.from_dict(state.best_scores)
            gains, errors = scores.gains(best)
            state.told |= {"val_gain": float(gains[0]), "val_gain_se": float(errors[0])}
        row = {
            "event": "epoch", "stage": stage.name, "round": state.round, "epoch": state.epoch,
            "step": state.steps, "loss": math.fsum(terms.values()), "terms": terms,
            "val_loss": val_loss, "val_accuracy": val_accuracy, **state.told,
        }  # fmt: skip
        history = state.rounds[-1]
        if watch == "none":
            state.best = state.epoch
        elif watch == "unseen":
            if scores.better(best, unseen.Scores.from_dict(state.start_scores)):
                self._keep(state.epoch, scores)
        elif all(validation.score(row) >= validation.score(earlier) for earlier in history):
            state.best = state.epoch
            self.best = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.log.write(row)
        if self.progress:
            whole = sum(s.rounds * s.optimiser.epochs for s in self.stages)
            done = sum(map(len, state.rounds)) + 1
            judged = f", val loss {val_loss:.4f}" if val_loss is not None else ""
            judged += f", val accuracy {val_accuracy:.3f}" if val_accuracy is not None else ""
            name = f"{stage.name}, " if len(self.stages) > 1 else ""
            name += f"round {state.round}, " if stage.rounds > 1 else ""
            self.progress(done, whole, f"{name}epoch {state.epoch}: loss {row['loss']:.4f}{judged}")
        return row

    def _highest(self) -> int:
        """The epoch that patience counts from: the best, or where only sure gains count the one
        with the highest accuracy, sure or not."""
        if self._watch() != "unseen":
            return self.state.best
        start = unseen.Scores.from_dict(self.state.start_scores).mean
        found = [start, *(float(row["val_accuracy"]) for row in self.state.rounds[-1])]
        return found.index(max(found)) - 1

    def _judge_start(self, stage: Stage, objective: Objective) -> None:
        """Make the state before the round the one to beat."""
        scores = self._unseen_scores(objective)
        self._keep(-1, scores)
        self.state.start_scores = self.state.best_scores
        self.log.write(
            {
                "event": "start", "stage": stage.name, "round": self.state.round, "epoch": -1,
                "val_accuracy": scores.mean,
            }
        )  # fmt: skip

    def _unseen_scores(self, objective: Objective) -> unseen.Scores:
        assert self.val is not None
        clips = unseen.complete(self.val.clips, self.val.counts)
        return unseen.scores(
            self.embedder.embed(self.val.seen), clips, unseen.draw(clips, self.seed),
            copy.deepcopy(objective).cpu().eval().head(),
        )  # fmt: skip

    def _keep(self, epoch: int, scores: unseen.Scores) -> None:
        """Remember these weights and scores as the round's best."""
        self.state.best, self.state.best_scores = epoch, scores.to_dict()
        self.best = {k: v.clone() for k, v in self.model.state_dict().items()}

    @torch.inference_mode()
    def _val_loss(self, val: TrainingData, stage: Stage, objective: Objective) -> float:
        self.model.eval()
        labels = torch.from_numpy(val.clips.class_ids).long().to(self.device)
        total = 0.0
        for indices in batching.cut(torch.arange(len(val.clips)), stage.optimiser.batch_size):
            inputs = val.inputs(indices)
            batch = self.batch(val, indices, inputs, labels, stage, training=False)
            total += objective(batch).item() * len(indices)
        check_finite([total], self.state.steps, self.state.epoch, "the loss on val clips is")
        return total / len(val.clips)

    # ── metrics and checkpoints ──────────────────────────────────────────────────────────────────

    def _seed(self) -> int:
        return self.state.step_seed(self.seed)

    def _check_weights(self) -> None:
        """Refuse to keep weights that are no numbers: a loss may be finite, and not its slope."""
        largest = [p.detach().abs().amax() for p in self.model.parameters() if p.numel()]
        worst = torch.stack(largest).amax().item() if largest else 0.0
        check_finite([worst], self.state.steps, self.state.epoch, "after it weights are")

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved >= self.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint that agrees with the metrics written so far."""
        self.log.flush()
        self._check_weights()
        assert self.optimiser is not None
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        tensors = {
            "model": self.model.state_dict(),
            "optimiser": checkpoint.pack_optimiser(self.optimiser),
            "best": self.best,
            "random": random,
        }
        checkpoint.save(self.run_dir, tensors, self.state.to_dict())
        self._saved = time.monotonic()

    def _resume(self) -> bool:
        """Go to where the checkpoint was taken, if there is one."""
        saved = checkpoint.load(self.run_dir)
        if saved is None:
            return False
        tensors, facts = saved
        self.state = TrainerState(**facts)
        self.model.load_state_dict({k: v.to(self.device) for k, v in tensors["model"].items()})
        self.best = {k: v.to(self.device) for k, v in tensors.get("best", {}).items()}
        stage, objective = self.stages[self.state.stage], self.objectives[self.state.stage]
        self._freeze(stage, objective)
        self.optimiser = make_optimiser(stage.optimiser, self._learning(stage, objective))
        checkpoint.unpack_optimiser(self.optimiser, tensors["optimiser"])
        torch.set_rng_state(tensors["random"]["cpu"])
        if self.device.type != "cuda":
            return True
        if "cuda" in tensors["random"]:
            torch.cuda.set_rng_state(tensors["random"]["cuda"], self.device)
        else:  # it was taken on a processor: what is drawn from here on cannot be what it would be
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(self._seed())
            self._say_other_device()
        return True

    def _say_other_device(self) -> None:
        if self.progress:
            done = sum(map(len, self.state.rounds))
            whole = sum(s.rounds * s.optimiser.epochs for s in self.stages)
            self.progress(done, whole, "note: the checkpoint is of a CPU; the training goes on on "
                          "a GPU, and is no longer the same to the last bit")  # fmt: skip
