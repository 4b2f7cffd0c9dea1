"""ARN against a loop over frames, and on clips that only what goes together tells apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import learn
from learn.fewshot.heads import Context
from learn.training.objectives import Batch, ObjectiveContext
from store import plugins
from store.errors import ConfigError
from tests.learn import sequences
from tests.learn.references.arn import literal

FRAMES, DIM = 4, 6


def build(spec="arn:frames=4,channels=3"):
    torch.manual_seed(0)
    sizes = {"visual": FRAMES * DIM}
    context = ObjectiveContext(outputs=sizes, inputs=sizes, classes=("a", "b", "c"), clips=9)
    return plugins.build("learn.training.objectives", spec, context).eval().double()


def clips(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, FRAMES * DIM, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("relation", ["residual", "plain"])
def test_equals_the_loop_over_frames(shots, relation):
    arn = build(f"arn:frames=4,channels=3,relation={relation}")
    support, query = clips(2, 3, shots), clips(2, 4, seed=1)
    scores = arn.head().fit(support, Context(modality_dims=(FRAMES * DIM,)))(query)
    with torch.no_grad():
        for s, q, got in zip(support, query, scores, strict=True):
            torch.testing.assert_close(got, literal(arn, q, s))


@torch.no_grad()
def test_the_relation_network_has_the_published_size_and_shortcuts():
    arn = build("arn:frames=4,channels=64,relation=residual")
    assert sum(p.numel() for p in arn.relation.parameters()) == 120_721
    x = torch.randn(2, 2, 64, 64, dtype=torch.float64)
    out = x
    for number, part in enumerate(arn.relation[:4]):
        conv, norm = part.layer[0], part.layer[1]
        new = F.conv2d(out, conv.weight, conv.bias, padding=1)
        new = F.group_norm(new, 1, norm.weight, norm.bias).clamp_min(0)
        out = F.max_pool2d(new if number == 0 else new + out, 2)
    assert out.shape == (2, 64, 4, 4)
    hidden = arn.relation[6](out.flatten(1)).clamp_min(0)
    torch.testing.assert_close(arn.relation(x), arn.relation[8](hidden))


def test_the_jigsaw_puts_pieces_in_the_order_that_it_asks_for():
    arn, x = build("arn:frames=4,jigsaw=0.5,pieces=2"), clips(6)
    frames = (F.normalize(x, dim=1) * (FRAMES * DIM) ** 0.5).view(6, FRAMES, DIM)
    assert arn.orders.tolist() == [[0, 1], [1, 0]]
    mixed = arn.shuffled(x, torch.tensor([0, 1, 1, 0, 1, 0])).view(6, FRAMES, DIM)
    for i, swapped in enumerate([0, 1, 1, 0, 1, 0]):
        assert torch.equal(mixed[i], frames[i][[2, 3, 0, 1] if swapped else [0, 1, 2, 3]])
    batch = Batch(embeddings={"visual": x}, labels=torch.arange(6) % 2, clips=torch.arange(6))
    terms = arn.terms(batch)
    assert set(terms) == {"visual_visual", "jigsaw_visual"}
    with torch.no_grad():
        arn.discriminator[2].weight.zero_()
        arn.discriminator[2].bias.zero_()
    assert arn.terms(batch)["jigsaw_visual"].item() == pytest.approx(0.5 * np.log(2))
    assert torch.equal(terms["visual_visual"], build("arn:frames=4").terms(batch)["visual_visual"])


def test_three_pieces_of_four_frames_differ_by_one():
    arn = build("arn:frames=4,jigsaw=1,pieces=3")
    frames = (F.normalize(clips(1), dim=1) * (FRAMES * DIM) ** 0.5).view(FRAMES, DIM)
    reverse = arn.orders.tolist().index([2, 1, 0])
    mixed = arn.shuffled(clips(1), torch.tensor([reverse])).view(FRAMES, DIM)
    assert torch.equal(mixed, frames[[3, 2, 0, 1]])


def test_the_order_of_frames_decides_nothing():
    arn, context = build(), Context(modality_dims=(FRAMES * DIM,))
    support, query = clips(2, 3, 2), clips(2, 4, seed=1)
    mixed = query.view(2, 4, FRAMES, DIM)[:, :, [2, 0, 3, 1]].flatten(-2)
    predict = arn.head().fit(support, context)
    torch.testing.assert_close(predict(mixed), predict(query))
    assert not torch.allclose(predict(query)[:, :1], predict(query)[:, 1:2])


def test_the_cost_is_that_of_every_clip_against_the_others_of_its_batch():
    arn, x = build(), clips(5)
    labels = torch.tensor([0, 0, 1, 1, 1])
    batch = Batch(embeddings={"visual": x}, labels=labels, clips=torch.arange(5))
    costs = []
    for i in range(5):
        of_class = [[x[j] for j in range(5) if j != i and labels[j] == n] for n in (0, 1)]
        scores = [literal(arn, x[i : i + 1], torch.stack(shots)[None]) for shots in of_class]
        costs.append(F.cross_entropy(torch.cat(scores, 1), labels[i : i + 1]))
    torch.testing.assert_close(arn(batch), torch.stack(costs).mean())


@pytest.fixture(scope="module")
def paired_signs(tmp_path_factory):
    """Every clip's rows sum to about nothing; a class is a direction they go to and fro along."""
    path = tmp_path_factory.mktemp("arn") / "store"
    rng = np.random.default_rng(0)
    directions = 3 * np.linalg.qr(rng.standard_normal((10, 10)))[0][:6]
    signs = np.stack([rng.permutation([1, 1, -1, -1]) for _ in sequences.LABEL])
    values = (signs[..., None] * directions[sequences.LABEL][:, None]).reshape(-1, 10)
    values = values + 0.5 * rng.standard_normal(values.shape)
    return sequences.fill(path, values)


def test_it_tells_apart_what_only_goes_together(paired_signs, tmp_path):
    settings = [
        "projection.frames=4", "projection.width=16", "objective.frames=4", "objective.channels=8",
        "objective.shots=1", "optimiser.epochs=12", "optimiser.learning_rate=1e-2",
        "optimiser.batch_size=30", "optimiser.patience=0",
    ]  # fmt: skip
    learn.train(paired_signs, "arn_small", settings=settings, run_dir=tmp_path / "run")
    asked = {"ways": 5, "queries": 2, "episodes": 40, "shots": (1,)}
    own = learn.run_episodes(
        paired_signs, **asked, heads=("own",), projections=(tmp_path / "run",)
    ).results[0]
    means = learn.run_episodes(paired_signs, **asked).results[0]
    assert means.accuracy < 0.35, "the mean of a clip's rows says nothing"
    assert own.accuracy > 0.8


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("arn:frames=5", "no 5 frames"),
        ("arn:frames=0", "frames"),
        ("arn:channels=0", "channels"),
        ("arn:sharpness=nan", "sharpness"),
        ("arn:shots=-1", "shots"),
        ("arn:jigsaw=1,frames=4,pieces=5", "no 5 pieces"),
    ],
)
def test_impossible_settings_are_refused(spec, says):
    with pytest.raises(ConfigError, match=says):
        build(spec)
