"""The promises of `Fusion`, as tests of any fusion of senses."""

from typing import Any

import pytest
import torch

from learn.fewshot.fusions import FAMILY, Fusion, Prior, WeighingFusion, equal
from learn.fewshot.heads import Context
from store import plugins

E, N, K, M = 4, 3, 2, 9
HEADS = ("ridge:power=0.5,centre=support,unit=true", "prototypes", "tim:steps=5")


def seen(fusion: Any, vectors: Any) -> Any:
    """Shots, queries and contexts of four episodes in every view; queries are class by class."""
    views = fusion.views(vectors)
    rng = torch.Generator().manual_seed(1)
    order = torch.stack(
        [
            torch.stack([torch.randperm(10, generator=rng) + 10 * n for n in range(N)])
            for _ in range(E)
        ]
    )
    shots = [view.vectors[order[:, :, :K]] for view in views]
    queries = [view.vectors[order[:, :, K : K + 3]].flatten(1, 2) for view in views]
    return shots, queries, [Context(modality_dims=view.modality_dims) for view in views]


class FusionContract:
    """Classes are told apart, units of a sense decide nothing, weights are of the simplex."""

    @pytest.fixture
    def fusion(self, name: str) -> Any:
        """The fusion of that name with its defaults."""
        return plugins.build(FAMILY, name)

    @pytest.fixture
    def vectors(self) -> Any:
        """Clips of three classes by sight, by sound and by a network, class by class."""
        rng = torch.Generator().manual_seed(0)
        classes = torch.arange(30) // 10
        return {
            name: 2 * torch.randn(3, size, generator=rng)[classes]
            + torch.randn(30, size, generator=rng)
            for name, size in (("visual", 6), ("audio", 5), ("av", 4))
        }

    @pytest.mark.parametrize("head", HEADS)
    def test_scores_tell_classes_apart_and_episodes_do_not_meet(
        self, fusion: Any, head: Any, vectors: Any
    ) -> None:
        assert isinstance(fusion, Fusion)
        head = plugins.build("learn.fewshot.heads", head)
        shots, queries, contexts = seen(fusion, vectors)
        scores = fusion.fit(head, shots, contexts)(queries, None)
        assert scores.shape == (E, M, N)
        assert (scores.argmax(-1) == torch.arange(M) // 3).float().mean() > 0.6
        alone = [
            fusion.fit(head, [x[i : i + 1] for x in shots], contexts)(
                [x[i : i + 1] for x in queries], None
            )
            for i in range(E)
        ]
        torch.testing.assert_close(scores, torch.cat(alone), rtol=1e-4, atol=1e-4)

    def test_lengths_of_a_sense_decide_nothing(self, fusion: Any, vectors: Any) -> None:
        """A sense in other units is the same sense."""
        head = plugins.build("learn.fewshot.heads", HEADS[0])
        answers = []
        for factor in (1.0, 1000.0):
            scaled = {**vectors, "audio": vectors["audio"] * factor}
            shots, queries, contexts = seen(fusion, scaled)
            answers.append(fusion.fit(head, shots, contexts)(queries, None).argmax(-1))
        assert torch.equal(*answers)

    def test_it_says_what_it_lacks(self, fusion: Any, vectors: Any) -> None:
        assert fusion.lacks(vectors) is None
        assert fusion.lacks({"visual": vectors["visual"]})

    def test_weights_are_of_the_simplex_and_follow_the_better_sense(
        self, fusion: Any, vectors: Any
    ) -> None:
        if not fusion.weighs:
            return
        assert isinstance(fusion, WeighingFusion)
        head = plugins.build("learn.fewshot.heads", HEADS[0])
        noise = torch.randn(30, 5, generator=torch.Generator().manual_seed(2))
        shots, _, contexts = seen(fusion, {**vectors, "audio": noise})
        weights = fusion.weigh(head, shots, contexts, equal(2))
        torch.testing.assert_close(weights.sum(1), torch.ones(E))
        assert (weights >= 0).all()
        assert weights[:, 0].mean() > 0.6
        one = [x[:, :, :1] for x in shots]
        prior = Prior(value=(0.3, 0.7), origin="given")
        assert torch.allclose(
            fusion.weigh(head, one, contexts, prior), torch.tensor([0.3, 0.7]).expand(E, 2)
        )
