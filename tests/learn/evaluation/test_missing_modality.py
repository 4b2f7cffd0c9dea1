"""Curves of accuracy as queries lose a modality: their ends are known, their fills done by hand."""

import numpy as np
import pytest
import torch

import learn
from learn.commands.tables import episodes_table
from learn.data.evaluation_set import load_evaluation_set
from learn.evaluation.missing_modality import Drop, Gaps
from learn.fewshot.fusions import equal
from learn.fewshot.heads import Context
from learn.fewshot.modes import Pair
from learn.fewshot.scoring import accuracies, by_fusion
from store import open as open_store
from store import plugins
from store.errors import ConfigError, InputError

FEW = {"ways": 4, "queries": 5, "episodes": 15, "shots": (1, 3)}


@pytest.fixture(scope="module")
def run(paired, tmp_path_factory):
    path = tmp_path_factory.mktemp("missing") / "run"
    settings = ("optimiser.epochs=3", "network.hidden=24", "network.dim_out=12")
    learn.train(paired, "missing_modality", settings=settings, run_dir=path)
    return path


@pytest.fixture(scope="module")
def gaps(paired):
    fs = open_store(paired)
    features = {fs[name].modality: fs[name] for name in fs.features}
    scored, base = (
        load_evaluation_set(fs.manifest(), features, split=split, label="label", group=None)
        for split in ("test", "train")
    )
    return Gaps.of(scored, base, None, 5), Gaps.of(scored, None, None, 5)


def curve(result, **wanted):
    return [
        point
        for point in result.missing
        if all(getattr(point, key) == v for key, v in wanted.items())
    ]


def test_curves_begin_whole_and_end_with_one_modality(paired, run):
    drop = Drop(modes=("v", "a"), rates=(0.0, 1.0))
    result = learn.run_episodes(
        paired, **FEW, drop=drop, projections=("none", run), heads=("prototypes", "ridge"),
        fusions=("early", "learned"), guard="off",
    )  # fmt: skip
    rows = {(r.projection, r.head, r.support, r.shots): r.accuracy for r in result.results}
    for point in curve(result, rate=0.0, projection="none", fusion="early"):
        assert point.accuracy == rows["none", point.head, "av", point.shots]
    for point in curve(result, rate=0.0, fusion="learned"):
        assert point.accuracy == rows[str(run), point.head, "av", point.shots]
    ends = curve(result, rate=1.0, fill="ignored", projection="none")
    assert len(ends) == 2 * 2 * 2
    for point in ends:
        left = "a" if point.dropped == "v" else "v"
        assert point.accuracy == rows["none", point.head, left, point.shots]
        assert point.dropped_clips == result.sampling["clips"]


def test_a_token_is_what_the_network_has_for_clips_without_it(paired, run):
    """`visual` of this network is made of what is seen and the token of what is not heard."""
    drop = Drop(modes=("a",), rates=(1.0,), fills=("token",))
    result = learn.run_episodes(paired, **FEW, drop=drop, projections=(run,))
    across = learn.run_episodes(paired, **FEW, projections=(run,), support=("av",), query=("v",))
    assert [point.accuracy for point in result.missing] == [r.accuracy for r in across.results]
    assert {point.fusion for point in result.missing} == {"learned"}


def test_what_is_lost_at_one_rate_is_lost_at_higher_ones(gaps):
    with_base, _ = gaps
    clips = len(with_base.scored.clips)
    few, many = with_base.lost(0.25), with_base.lost(0.5)
    assert (few.sum(), many.sum()) == (round(clips / 4), clips // 2)
    assert (few <= many).all()
    assert not with_base.lost(0.0).any()
    assert with_base.lost(1.0).all()


def test_fills_by_hand(gaps):
    for gap in gaps:
        lost = gap.lost(0.5)
        source = gap.source
        zero = gap.queries("early", "zero", "audio", lost)["audio"]
        mean = gap.queries("early", "mean", "audio", lost)["audio"]
        near = gap.queries("early", "retrieved", "audio", lost)
        assert near["visual"] is gap.whole["visual"]
        for i, gone in enumerate(lost):
            if not gone:
                for filled in (zero, mean, near["audio"]):
                    assert torch.equal(filled[i], gap.whole["audio"][i])
                continue
            assert not zero[i].any()
            torch.testing.assert_close(mean[i], source["audio"].mean(0))
            like = torch.cosine_similarity(gap.whole["visual"][i], source["visual"], dim=1)
            if gap.base is None:
                like[i] = -2  # itself
            assert torch.equal(near["audio"][i], source["audio"][like.argmax()])


def test_nothing_is_retrieved_from_the_same_source(filled):
    fs = open_store(filled)
    features = {fs[name].modality: fs[name] for name in fs.features}
    scored = load_evaluation_set(fs.manifest(), features, split="test", label="label", group=None)
    gap = Gaps.of(scored, None, None, 0)
    near = gap.queries("early", "retrieved", "visual", gap.lost(1.0))["visual"]
    for i, filled_with in enumerate(near):
        (match,) = torch.nonzero((gap.whole["visual"] == filled_with).all(1)).T
        assert (scored.clips.groups[match] != scored.clips.groups[i]).all()


def test_rows_are_filled_before_a_network(gaps):
    with_base, _ = gaps
    lost = with_base.lost(0.5)
    own = with_base.scored.rows["audio"]
    token, zero, mean, near = (
        with_base._rows(fill, "audio", lost)["audio"]
        for fill in ("token", "zero", "mean", "retrieved")
    )
    of_token, of_zero = token.offsets.diff(), zero.offsets.diff()
    assert (of_token.numpy()[lost] == 0).all()
    assert (of_zero.numpy()[lost] == 1).all()
    kept = torch.from_numpy(~lost)
    for filled in (token, zero, mean, near):
        assert torch.equal(filled.means()[kept], own.means()[kept])
    assert not zero.means()[~kept].any()
    torch.testing.assert_close(
        mean.means()[~kept][0], with_base.base.rows["audio"].means().mean(0), rtol=2e-3, atol=2e-3
    )
    expected = with_base.queries("early", "retrieved", "audio", lost)["audio"]
    torch.testing.assert_close(near.means(), expected)


@pytest.mark.parametrize("head", ["prototypes", "nearest"])
def test_late_fusion_is_a_loop(make_clips, head):
    clips = make_clips([12] * 3)
    draw = plugins.build(
        "learn.fewshot.tasks",
        plugins.Spec("n_way_k_shot", {"ways": 3, "shots": 2, "queries": 4, "episodes": 9}),
    )(clips, seed=0)
    rng = torch.Generator().manual_seed(0)
    apart = torch.from_numpy(clips.class_ids / 3)[:, None].float()
    views = [torch.randn(36, d, generator=rng) + apart for d in (5, 3)]
    weights = [torch.ones(36), (torch.rand(36, generator=rng) < 0.5).float()]
    classifier = plugins.build("learn.fewshot.heads", head)
    contexts = [Context(modality_dims=(x.shape[1],)) for x in views]
    pairs = [Pair(support=x, query=x, modality_dims=(x.shape[1],)) for x in views]
    late = plugins.build("learn.fewshot.fusions", "late")
    predictions = by_fusion(late, classifier, pairs, contexts, weights, equal(2))(draw)
    correct = []
    for support, query in zip(draw.support, draw.query, strict=True):
        total = np.zeros((12, 3))
        for x, context, share in zip(views, contexts, weights, strict=True):
            predict = classifier.fit(x[support.astype(np.int64)][None], context)
            own = predict(x[support.reshape(-1).astype(np.int64)][None])[0].numpy()
            scores = predict(x[query.astype(np.int64)][None])[0].numpy()
            total += share[query.astype(np.int64)].numpy()[:, None] * scores / own.std(ddof=1)
        correct.append((total.argmax(1) == draw.targets).mean())
    np.testing.assert_allclose(accuracies(draw, predictions), correct)


def test_weighted_fusion_is_one_more_curve_and_sound_counts_less_where_it_lacks(paired):
    """Without any sound left, sound that is ignored gives the answers of sight; half as many clips
    without it cost less than all."""
    asked = {"modes": ("a",), "rates": (0.0, 0.5, 1.0), "fills": ("ignored", "zero")}
    drop = Drop(**asked, fusions=("weighted",))
    result = learn.run_episodes(paired, **FEW, drop=drop, heads=("default",))
    points = {(p.fill, p.shots, p.rate): p.accuracy for p in result.missing}
    assert {p.fusion for p in result.missing} == {"weighted"}
    alone = {r.shots: r.accuracy for r in result.results if (r.support, r.query) == ("v", "v")}
    both = {r.shots: r.accuracy for r in result.results if (r.support, r.query) == ("av", "av")}
    for shots in (1, 3):
        assert points["zero", shots, 0.0] == pytest.approx(points["ignored", shots, 0.0])
        assert points["ignored", shots, 0.0] == pytest.approx(both[shots], abs=0.02)
        assert points["ignored", shots, 1.0] == pytest.approx(alone[shots], abs=0.02)
    unasked = learn.run_episodes(paired, **FEW, drop=Drop(**{**asked, "fills": ("zero",)}))
    assert {p.fusion for p in unasked.missing} == {"early", "late"}


def test_the_json_and_the_table_have_every_point(paired, capsys):
    drop = Drop(modes=("a",), rates=(0.0, 0.5), fills=("zero", "retrieved"))
    result = learn.run_episodes(paired, **FEW, drop=drop).to_dict()
    assert [(point["shots"], point["rate"]) for point in result["missing"]] == [
        (1, 0.0), (3, 0.0), (1, 0.5), (3, 0.5),
    ] * 4  # fmt: skip
    assert {(point["fill"], point["filled_from"]) for point in result["missing"]} == {
        ("zero", ""), ("retrieved", "train"),
    }  # fmt: skip
    episodes_table(result)
    out = capsys.readouterr().out
    assert "fusion  fill       0 %   50 %" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"modes": ("av",)}, ConfigError, "no 'av'"),
        ({"fills": ("tokn",)}, ConfigError, "did you mean 'token'"),
        ({"rates": (1.5,)}, ConfigError, "shares from 0 to 1"),
        ({"fusions": ("learned",)}, InputError, "--recipe missing_modality"),
        ({"fills": ("token",)}, InputError, "--recipe missing_modality"),
    ],
)
def test_what_cannot_be_dropped_is_one_line(paired, asked, error, says):
    seen = []
    with pytest.raises(error, match=says):
        learn.run_episodes(
            paired, **FEW, drop=Drop(**{"modes": ("a",), **asked}),
            progress=lambda *update: seen.append(update),
        )  # fmt: skip
    assert not seen


def test_a_modality_that_is_not_in_play_cannot_go_missing(paired):
    with pytest.raises(InputError, match="needs audio features in play"):
        learn.run_episodes(paired, **FEW, support=("v",), drop=Drop(modes=("a",)))
