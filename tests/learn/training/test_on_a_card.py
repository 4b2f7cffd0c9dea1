"""Training on a GPU: no step asks it anything, and a CPU's checkpoint goes on."""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch

import learn
from learn.data.clips import Clips
from learn.data.rows import Rows
from learn.models.embedder import Embedder
from learn.training import augment, runs
from learn.training.dataset import TrainingData
from learn.training.loop import Trainer
from learn.training.recipe import ViewSettings, load
from tests.fake_cuda import CARD, fake_card

CLIPS, DIM = 60, 12


def rows(seed):
    counts = torch.randint(1, 6, (CLIPS,), generator=torch.Generator().manual_seed(seed))
    total = int(counts.sum())
    return Rows(
        values=torch.randn(total, DIM).half(),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        seconds=torch.zeros(total),
    )


def clips():
    return Clips(
        ids=tuple(f"{k:02}" for k in range(CLIPS)),
        class_ids=np.arange(CLIPS, dtype=np.int32) % 6,
        classes=tuple("abcdef"),
        groups=None,
        split="train",
    )


@pytest.mark.parametrize("recipe", ["infonce", "supcon", "protonet"])
def test_a_step_asks_nothing_of_the_card(recipe, tmp_path):
    """How long a batch is, and whether it is padded, was asked: two waits a modality."""
    made, settings = {"visual": rows(0), "audio": rows(1)}, load(recipe, ())
    stage = settings.stages[0]
    with fake_card() as card:
        data = TrainingData(clips=clips(), rows={m: x.to(CARD) for m, x in made.items()})
        space = Embedder(settings.projection, settings.network, dict.fromkeys(made, DIM))
        objective = runs.build_objective(
            stage, space, dims=dict.fromkeys(made, DIM), classes=data.clips.classes, clips=CLIPS,
            known=None, states={},
        )  # fmt: skip
        trainer = Trainer(
            run_dir=tmp_path, embedder=space, stages=[stage], objectives=[objective], states={},
            data=data, val=None, watches={}, seed=0, device=CARD,
        )  # fmt: skip
        card.copies.clear()
        indices = torch.arange(0, CLIPS, 2)
        inputs = data.inputs(indices)
        assert (card.questions, card.waits) == ([], [])
        assert inputs["visual"].rows.device == CARD
        assert len(inputs["visual"].rows) == len(indices)
        trainer.batch(data, indices, inputs, trainer.labels, stage, training=True)
        assert (card.questions, card.waits) == ([], [])


def test_copies_of_clips_are_drawn_where_the_rows_are():
    """Noise was drawn on the processor, a batch of it copied at every step."""
    held = rows(0)
    views = ViewSettings(subclip=0.5, feature_dropout=0.2, noise=0.1)
    with fake_card() as card:
        standard = Embedder(load("infonce", ()).projection, None, {"visual": DIM}).to(CARD)
        inputs = held.to(CARD).padded(torch.arange(8))
        card.copies.clear()
        copied = augment.copy(inputs, standard.of("visual"), views, torch.Generator(CARD))
        assert copied.rows.device == CARD
        assert card.copies == []


def test_padded_rows_are_those_of_each_clip():
    held = rows(3)
    for indices in (torch.tensor([5, 2, 2]), torch.tensor([7])):
        padded = held.padded(indices)
        for i, clip in enumerate(indices.tolist()):
            own = held.values[held.offsets[clip] : held.offsets[clip + 1]].float()
            assert torch.equal(padded.rows[i][padded.mask[i]], own)
            assert not padded.rows[i][~padded.mask[i]].any()


@contextmanager
def pretended(device):
    """A trainer's device said to be a GPU, while all numbers stay where they are."""
    seeds = []
    patches = {
        "set_rng_state": lambda state, of: seeds.append("state"),
        "manual_seed": seeds.append,
        "device": lambda of: mock.MagicMock(),
    }
    with mock.patch.multiple(torch.cuda, **patches):
        yield seeds


class EnoughError(Exception):
    pass


def test_a_checkpoint_of_a_processor_goes_on_on_a_card(paired, tmp_path):
    """It ended in a KeyError."""
    steps = []

    def stop():
        steps.append(1)
        return len(steps) == 5

    with pytest.raises(KeyboardInterrupt):
        learn.train(
            paired, "infonce", settings=("optimiser.epochs=3",), run_dir=tmp_path / "r", stop=stop,
            device="cpu",
        )  # fmt: skip
    resume, told = Trainer._resume, []

    def on_a_card(self):
        class Card(str):
            type, index = "cuda", 0

        with mock.patch.object(torch.Tensor, "to", lambda x, *_, **__: x), pretended(CARD) as seeds:
            self.device, self.progress = Card("cuda"), lambda *words: told.append(words[2])
            assert resume(self)
            assert len(seeds) == 1
            assert isinstance(seeds[0], int)
        raise EnoughError

    with mock.patch.object(Trainer, "_resume", on_a_card), pytest.raises(EnoughError):
        learn.train(
            paired, "infonce", settings=("optimiser.epochs=3",), run_dir=tmp_path / "r",
            resume=True, device="cpu",
        )  # fmt: skip
    assert "the checkpoint is of a CPU" in told[0]


@pytest.mark.gpu
def test_the_same_seed_gives_the_same_weights_on_a_card(paired, tmp_path):
    from safetensors.torch import load_file

    for name in ("a", "b"):
        learn.train(
            paired, "infonce", settings=("optimiser.epochs=2",), run_dir=tmp_path / name,
            device="cuda",
        )  # fmt: skip
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
