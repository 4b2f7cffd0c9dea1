"""The promises of `Objective`, as tests of any objective."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from learn.data.rows import Padded
from learn.training.objectives import (
    Batch,
    EpochStart,
    Objective,
    ObjectiveContext,
    TrainingEmbeddings,
    Traits,
)
from store import plugins

FAMILY = "learn.training.objectives"
B, DIM = 8, 16
MODALITIES = ("visual", "audio")


def context() -> Any:
    sizes = dict.fromkeys(MODALITIES, DIM)
    texts = torch.randn(B, 12, generator=torch.Generator().manual_seed(4))
    return ObjectiveContext(
        outputs=sizes, inputs=sizes, classes=tuple("abcdefgh"), clips=B, texts=texts
    )


def rearranged(batch: Any, order: Any, *, only: Any = MODALITIES, labels: Any = True) -> Any:
    """The batch with some of its parts in another order."""
    embeddings = {m: x[order] if m in only else x for m, x in batch.embeddings.items()}
    tags = {}
    if labels:
        tags = {"labels": batch.labels[order], "clips": batch.clips[order]}
        tags["targets"] = batch.targets[order]
    inputs = {
        m: Padded(*(part[order] for part in x)) if m in only else x for m, x in batch.inputs.items()
    }
    return replace(batch, embeddings=embeddings, inputs=inputs, **tags)


def moved(objective: Any, batch: Any, *, seed: Any = 3) -> Any:
    """The objective as it is in the second epoch, after a step."""
    embeddings = {m: x.detach() for m, x in batch.embeddings.items()}
    survey = TrainingEmbeddings(embeddings=embeddings, means=embeddings, labels=batch.labels)
    with torch.no_grad():
        for epoch in (0, 1):
            metrics = objective.prepare(
                EpochStart(round=0, epoch=epoch, seed=seed + epoch, survey=lambda: survey)
            )
            assert all(isinstance(number, float) for number in metrics.values())
            objective.after_step(batch)
    return objective


class ObjectiveContract:
    """The right pairing costs less than every wrong one, and computing it changes no state."""

    @pytest.fixture
    def objective(self, name: str) -> Any:
        """The objective of that name for the batch below."""
        torch.manual_seed(0)
        return plugins.build(FAMILY, name, context()).eval()

    @pytest.fixture
    def batch(self) -> Any:
        """Eight clips of eight classes, both modalities free to be learnt."""
        generator = torch.Generator().manual_seed(0)
        embeddings = {
            m: torch.randn(B, DIM, generator=generator).requires_grad_() for m in MODALITIES
        }
        inputs = {
            m: Padded(
                torch.randn(B, 2, DIM, generator=generator), torch.ones(B, 2, dtype=torch.bool),
                torch.arange(2.0).expand(B, 2),
            )
            for m in MODALITIES
        }  # fmt: skip
        return Batch(
            embeddings=embeddings, labels=torch.arange(B), clips=torch.arange(B), inputs=inputs,
            targets=torch.eye(B),
        )  # fmt: skip

    def test_it_is_an_objective_that_says_whether_it_needs_labels(
        self, objective: Any, name: str
    ) -> None:
        assert isinstance(objective, Objective)
        assert isinstance(objective, torch.nn.Module)
        assert type(plugins.module(FAMILY, name).TRAITS) is Traits

    def test_once_learnt_the_right_pairing_costs_less_than_every_wrong_one(
        self, objective: Any, batch: Any
    ) -> None:
        learnt = [*batch.embeddings.values(), *objective.parameters()]
        adam = torch.optim.Adam(learnt, lr=0.05)
        at_first = objective(batch).item()
        for _ in range(60):
            adam.zero_grad()
            objective(batch).backward()
            adam.step()
        right = objective(batch)
        assert right < at_first
        orders = [torch.arange(B).roll(shift) for shift in range(1, B)]
        assert all(
            right < objective(rearranged(batch, o, only="visual", labels=False)) for o in orders
        )

    def test_it_does_not_care_about_the_order_of_clips(self, objective: Any, batch: Any) -> None:
        order = torch.randperm(B, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(objective(rearranged(batch, order)), objective(batch))

    def test_computing_it_changes_nothing(self, objective: Any, batch: Any) -> None:
        before = {key: value.clone() for key, value in objective.state_dict().items()}
        first = objective(batch)
        assert torch.equal(objective(batch), first)
        assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())

    def test_every_gradient_is_finite_and_every_modality_learns(
        self, objective: Any, batch: Any
    ) -> None:
        objective(batch).backward()
        for x in (*batch.embeddings.values(), *objective.parameters()):
            assert x.grad.isfinite().all()
            assert x.grad.abs().sum() > 0

    @pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
    def test_embeddings_of_any_length_give_finite_numbers(
        self, objective: Any, batch: Any, scale: Any
    ) -> None:
        embeddings = {m: (scale * x.detach()).requires_grad_() for m, x in batch.embeddings.items()}
        cost = objective(replace(batch, embeddings=embeddings))
        cost.backward()
        assert cost.isfinite()
        assert all(x.grad.isfinite().all() for x in embeddings.values())

    def test_clips_of_one_class_are_no_reason_to_fail(self, objective: Any, batch: Any) -> None:
        assert objective(replace(batch, labels=torch.zeros_like(batch.labels))).isfinite()

    def test_state_moves_between_steps_and_only_there(self, objective: Any, batch: Any) -> None:
        """What `prepare` and `after_step` leave is finite, works, and is the same every time."""
        moved(objective, batch)
        after = {key: value.clone() for key, value in objective.state_dict().items()}
        cost = objective(batch)
        cost.backward()
        assert cost.isfinite()
        assert all(x.grad.isfinite().all() for x in batch.embeddings.values())
        assert all(torch.equal(value, after[key]) for key, value in objective.state_dict().items())

    def test_the_same_history_leaves_the_same_state(
        self, objective: Any, batch: Any, name: str
    ) -> None:
        torch.manual_seed(0)
        twin = plugins.build(FAMILY, name, context()).eval()
        twin.load_state_dict(objective.state_dict())
        one, two = moved(objective, batch), moved(twin, batch)
        assert torch.equal(one(batch), two(batch))
        for key, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[key]), key

    def test_it_says_so_if_it_looks_at_stored_rows(self, batch: Any, name: str) -> None:
        """They are not at hand where means stand in their place."""
        if plugins.module(FAMILY, name).TRAITS.of_rows:
            pytest.skip("it does")
        blind = replace(batch, inputs={})
        torch.manual_seed(0)
        moved(plugins.build(FAMILY, name, context()).eval(), blind)(blind)

    def test_clips_of_another_split_cost_something_finite(self, objective: Any, batch: Any) -> None:
        """As in validation: no memory, no cluster and no partner is kept of them."""
        elsewhere = replace(batch, clips=torch.full_like(batch.clips, -1))
        assert moved(objective, batch)(elsewhere).isfinite()
