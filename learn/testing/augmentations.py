"""The promises of `Augmentation`, as tests of any way to make features for a support."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from learn.fewshot.augmentations import FAMILY, Augmentation, AugmentedHead, Base
from learn.fewshot.heads import Context
from store import plugins

E, N, M, DIM = 3, 4, 8, 12
CLASSES, CLIPS = 24, 6


@cache
def clips_of_classes() -> Base:
    """Clips of some classes, no number below zero."""
    rng = torch.Generator().manual_seed(0)
    class_ids = np.repeat(np.arange(CLASSES), CLIPS)
    means = 2 * torch.randn(CLASSES, DIM, generator=rng).abs()
    noise = 0.5 * torch.randn(len(class_ids), DIM, generator=rng)
    return Base(vectors=(means[torch.from_numpy(class_ids)] + noise).abs(), class_ids=class_ids)


@cache
def learnt(name: str) -> Any:
    """What the augmentation of that name makes features by, learnt once for all tests."""
    augmentation = plugins.build(FAMILY, name)
    assert isinstance(augmentation, Augmentation)
    return augmentation.learn(clips_of_classes(), 3)


class AugmentationContract:
    """Features are finite, decided by the seed, and each episode's and class's own."""

    @pytest.fixture
    def base(self) -> Base:
        """Clips of some classes."""
        return clips_of_classes()

    @pytest.fixture
    def make(self, name: str, base: Base) -> Any:
        """What the augmentation of that name learnt, with its defaults."""
        return learnt(name)

    @pytest.fixture(params=[1, 4])
    def support(self, request: pytest.FixtureRequest) -> Any:
        """The shots of three episodes."""
        rng = torch.Generator().manual_seed(1)
        return (2 * torch.randn(E, N, request.param, DIM, generator=rng)).abs()

    def test_features_are_finite_and_of_the_classes(self, make: Any, support: Any) -> None:
        made = make(support)
        assert made.shape[:2] == (E, N)
        assert made.shape[2] > 0
        assert made.shape[3] == DIM
        assert made.dtype == support.dtype
        assert bool(made.isfinite().all())
        own = torch.cdist(made.mean(2), support.mean(2)).argmin(-1)
        assert (own == torch.arange(N)).float().mean() > 0.6

    def test_the_seed_decides_everything(self, name: str, base: Base, support: Any) -> None:
        augmentation = plugins.build(FAMILY, name)
        one, same, other = (augmentation.learn(base, seed)(support) for seed in (3, 3, 4))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_episodes_and_classes_do_not_meet(self, make: Any, support: Any) -> None:
        """Made alone or in another order, a class's features are the same up to rounding."""
        made = make(support)
        for e in range(E):
            torch.testing.assert_close(make(support[e : e + 1])[0], made[e], rtol=1e-4, atol=1e-5)
        turned = make(support.flip(1)).flip(1)
        torch.testing.assert_close(turned, made, rtol=1e-4, atol=1e-5)

    def test_looking_changes_nothing(self, make: Any, base: Base, support: Any) -> None:
        before, vectors = support.clone(), base.vectors.clone()
        torch.testing.assert_close(make(support), make(support))
        assert torch.equal(support, before)
        assert torch.equal(base.vectors, vectors)

    def test_heads_learn_from_shots_and_features(self, make: Any, support: Any) -> None:
        head = plugins.build("learn.fewshot.heads", "ridge")
        augmented = AugmentedHead(head=head, make=make)
        query = support[:, :, :1].repeat(1, 1, 2, 1).flatten(1, 2) + 0.01
        context = Context(modality_dims=(DIM,))
        scores = augmented.fit(support, context)(query)
        both = torch.cat([support, make(support)], 2)
        torch.testing.assert_close(scores, head.fit(both, context)(query))
