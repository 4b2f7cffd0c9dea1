"""TRX against a loop over tuples, and on clips that only the order of frames tells apart."""

import json
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import learn
import store
from learn.data.rows import choose_feature, load_rows
from learn.fewshot.heads import Context
from learn.training.objectives import Batch, ObjectiveContext
from learn.training.objectives._episodic import OwnHead
from learn.training.runs import load_run
from store import plugins
from store.errors import ConfigError, InputError
from tests.learn import sequences
from tests.learn.references.trx import literal

FRAMES, DIM = 4, 6


def build(spec="trx:frames=4,width=5", outputs=("visual",)):
    torch.manual_seed(0)
    sizes = dict.fromkeys(outputs, FRAMES * DIM)
    context = ObjectiveContext(outputs=sizes, inputs=sizes, classes=("a", "b", "c"), clips=9)
    return plugins.build("learn.training.objectives", spec, context).eval().double()


def clips(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, FRAMES * DIM, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("tuples", ["", ",triples=false", ",pairs=false"])
def test_equals_the_loop_over_tuples(shots, tuples):
    trx = build(f"trx:frames=4,width=5{tuples}")
    with torch.no_grad():
        trx.tuples[0].norm.weight.uniform_(0.5, 2)
        support, query = clips(2, 3, shots), clips(2, 4, seed=1)
        scores = trx.head().fit(support, Context(modality_dims=(FRAMES * DIM,)))(query)
        for s, q, got in zip(support, query, scores, strict=True):
            torch.testing.assert_close(got, literal(trx, q, s))


def test_a_few_episodes_at_a_time_change_nothing(monkeypatch):
    trx, support, query = build(), clips(5, 3, 2), clips(5, 4, seed=1)
    context = Context(modality_dims=(FRAMES * DIM,))
    whole = trx.head().fit(support, context)(query)
    monkeypatch.setattr(OwnHead, "AT_ONCE", 1)
    torch.testing.assert_close(trx.head().fit(support, context)(query), whole)


def test_what_is_dropped_of_a_frame_is_dropped_in_every_tuple():
    trx = build("trx:frames=4,width=5,dropout=0.5,triples=false").train()
    seen = []
    part = trx.tuples[0]
    part.to_keys.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    part(clips(1, 1).view(1, 1, FRAMES, DIM), clips(1, 1, 1).view(1, 1, 1, FRAMES, DIM), None)
    for pairs in (x.view(-1, 2, DIM) for x in seen):
        for frame in range(FRAMES):
            of_frame = pairs[part.places == frame]
            assert len(of_frame) == FRAMES - 1
            assert (of_frame == of_frame[0]).all()
        assert (pairs == 0).any()


def test_two_modalities_are_each_compared_and_count_alike():
    trx, single = build(), Context(modality_dims=(FRAMES * DIM,))
    support, query = clips(2, 3, 2, 2), clips(2, 4, 2, seed=1)
    apart = [trx.head().fit(support[..., i, :], single)(query[..., i, :]) for i in (0, 1)]
    both = Context(modality_dims=(FRAMES * DIM,) * 2)
    joined = trx.head().fit(support.flatten(-2), both)(query.flatten(-2))
    torch.testing.assert_close(joined, (apart[0] + apart[1]) / 2)


def test_the_cost_is_that_of_every_clip_against_the_others_of_its_batch():
    """Clip by clip: its class without it, the other classes whole; a class of one is not asked."""
    trx = build()
    labels = torch.tensor([2, 0, 0, 1, 2, 2])
    x = clips(6)
    batch = Batch(embeddings={"visual": x}, labels=labels, clips=torch.arange(6))
    costs = []
    for i in (0, 1, 2, 4, 5):
        others = [j for j in range(6) if j != i]
        classes = sorted({int(labels[j]) for j in others})
        scores = [
            literal(trx, x[i : i + 1], torch.stack([x[j] for j in others if labels[j] == n])[None])
            for n in classes
        ]
        costs.append(
            F.cross_entropy(torch.cat(scores, 1), torch.tensor([classes.index(int(labels[i]))]))
        )
    torch.testing.assert_close(trx(batch), torch.stack(costs).mean())


def test_as_many_shots_as_asked_for_are_drawn_for_each_query():
    """With one shot the cost of a query is that of one of the ways to choose them."""
    trx, x = build("trx:frames=4,width=5,shots=1"), clips(4)
    labels = torch.tensor([0, 0, 0, 1])
    seen = set()
    for seed in range(30):
        batch = Batch(embeddings={"visual": x}, labels=labels, clips=torch.arange(4), seed=seed)
        seen.add(round(float(trx(batch).detach()), 6))
    possible = set()
    for drawn in product((1, 2), (0, 2), (0, 1)):
        costs = []
        for i, j in enumerate(drawn):
            shots = torch.stack([x[j : j + 1], x[3:]])
            scores = literal(trx, x[i : i + 1], shots)
            costs.append(F.cross_entropy(scores, torch.tensor([0])))
        possible.add(round(float(torch.stack(costs).mean().detach()), 6))
    assert seen <= possible
    assert len(seen) > 4


def test_across_modalities_a_clip_may_be_its_own_shot():
    trx = build(outputs=("visual", "audio"))
    x, y = clips(2), clips(2, seed=1)
    batch = Batch(
        embeddings={"visual": x, "audio": y}, labels=torch.tensor([0, 1]), clips=torch.arange(2)
    )
    terms = trx.terms(batch)
    assert list(terms) == ["visual_visual", "visual_audio", "audio_visual", "audio_audio"]
    assert terms["visual_visual"] == terms["audio_audio"] == 0
    expected = F.cross_entropy(literal(trx, x, y[:, None]), torch.arange(2)) / 4
    torch.testing.assert_close(terms["visual_audio"], expected)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """Every class shows the same four pictures, each in an order of its own."""
    path = tmp_path_factory.mktemp("trx") / "store"
    rng = np.random.default_rng(0)
    orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1], [0, 2, 1, 3], [3, 1, 2, 0]]
    pictures = 4 * rng.standard_normal((4, 10))
    values = np.concatenate([pictures[orders[c]] for c in sequences.LABEL])
    values = values + rng.standard_normal(values.shape)
    return sequences.fill(path, values)


@pytest.fixture(scope="module")
def run(ordered, tmp_path_factory):
    path = tmp_path_factory.mktemp("trx") / "run"
    settings = [
        "projection.frames=4", "projection.width=16", "objective.frames=4", "objective.width=16",
        "optimiser.epochs=8", "optimiser.learning_rate=1e-2", "optimiser.batch_size=30",
    ]  # fmt: skip
    learn.train(ordered, "trx", settings=settings, run_dir=path)
    return path


def test_it_tells_apart_what_only_the_order_of_frames_does(ordered, run):
    asked = {"ways": 5, "queries": 2, "episodes": 40, "shots": (1,)}
    own = learn.run_episodes(ordered, **asked, heads=("own",), projections=(run,)).results[0]
    means = learn.run_episodes(ordered, **asked).results[0]
    assert means.accuracy < 0.35, "the mean of a clip's rows knows no order"
    assert own.accuracy > 0.9
    assert (own.head, own.transductive, own.centred_by) == ("own", False, "none")


def test_every_answer_is_that_of_a_loop_over_the_saved_episodes(ordered, run, tmp_path):
    file = tmp_path / "episodes.safetensors"
    (result,) = learn.run_episodes(
        ordered, ways=3, queries=2, episodes=3, shots=(2,), heads=("own",), projections=(run,),
        save_episodes=file,
    ).results  # fmt: skip
    with safe_open(file, framework="numpy") as opened:
        ids, indices = json.loads(opened.metadata()["clips"]), opened.get_tensor("0.indices")
    loaded = load_run(run)
    rows = load_rows(choose_feature(store.open(ordered), "visual", None), ids)
    x = loaded.embed({"visual": rows})["visual"]
    answer = torch.arange(3).repeat_interleave(2)
    for indices_of_episode, share in zip(indices, result.of_episodes, strict=True):
        of_episode = x[torch.from_numpy(indices_of_episode).long()]
        with torch.no_grad():
            scores = literal(loaded.objective, of_episode[:, 2:].flatten(0, 1), of_episode[:, :2])
        assert share == pytest.approx(float((scores.argmax(1) == answer).double().mean()))


def test_a_head_of_ones_own_needs_a_run_that_has_one(ordered, tmp_path):
    with pytest.raises(InputError, match=r"stored vectors have no head 'own'.*trx"):
        learn.run_episodes(ordered, heads=("own",))
    settings = ["optimiser.epochs=1", "projection.hidden=8", "projection.dim_out=4"]
    learn.train(ordered, "cross_entropy", settings=settings, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"run has no head 'own'.*trx"):
        learn.run_episodes(ordered, heads=("own",), projections=(tmp_path / "run",))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("trx:frames=5", "no 5 frames"),
        ("trx:frames=2", "no tuples of 3"),
        ("trx:pairs=false,triples=false", "neither"),
        ("trx:width=0", "width"),
        ("trx:dropout=1", "dropout"),
        ("trx:shots=-1", "shots"),
    ],
)
def test_impossible_settings_are_refused(spec, says):
    with pytest.raises(ConfigError, match=says):
        build(spec)
