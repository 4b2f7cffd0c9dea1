"""Groups apart within classes, across all classes, or not at all; and what that is worth."""

import numpy as np
import pytest

import learn
import store
from learn.fewshot import episode_files
from learn.fewshot.statistics import ci95
from learn.fewshot.tasks import _sampler
from learn.fewshot.tasks.n_way_k_shot import Config, build
from store import testing
from store.errors import ConfigError, NotEnoughClips

SHARED = [i % 6 for i in range(16)]  # six speakers who say every word


def draw(clips, **asked):
    return build(Config(**{"ways": 3, "shots": 2, "queries": 3, "episodes": 400, **asked}))(
        clips, seed=0
    )


def meetings(clips, draw):
    """How many episodes have a group on both sides: within some class, and in any two classes."""
    within = across = 0
    for episode in clips.groups[draw.indices]:
        support, query = episode[:, : draw.shots], episode[:, draw.shots :]
        within += any(np.isin(q, s).any() for s, q in zip(support, query, strict=True))
        across += np.isin(query, support).any()
    return within, across


def test_hands_keeps_groups_apart_across_classes_and_the_others_do_not(make_clips):
    clips = make_clips([16] * 4, SHARED * 4)
    result = {groups: meetings(clips, draw(clips, groups=groups)) for groups in _names()}
    assert result["strict"] == (0, 0)
    assert result["within"][0] == 0 < result["within"][1]
    assert 0 < result["mixed"][0] < result["mixed"][1]


def _names():
    return ("within", "strict", "mixed")


def test_hands_shots_and_queries_are_of_their_class_and_all_have_their_turn(make_clips):
    clips = make_clips([16, 20, 16, 18], [*SHARED, *range(20), *SHARED, *range(6, 24)])
    result = draw(clips, groups="strict", episodes=2000)
    assert (clips.class_ids[result.indices] == result.classes[..., None]).all()
    assert all(len(set(row)) == 3 for row in result.classes.tolist())
    drawn = np.bincount(result.indices.ravel(), minlength=len(clips))
    assert drawn.min() > 0.5 * drawn.mean()
    first = np.bincount(result.classes[:, 0], minlength=4)
    assert abs(first - 500).max() < 100  # 5 deviations of a fair draw


def test_where_classes_share_no_group_hands_changes_nothing(make_clips):
    clips = make_clips([16] * 4, [c * 6 + g for c in range(4) for g in SHARED])
    strict, within = (draw(clips, groups=groups) for groups in ("strict", "within"))
    assert np.array_equal(strict.indices, within.indices)
    assert strict.sha256 != within.sha256


def test_where_hardly_any_deal_is_right_it_is_found(make_clips, monkeypatch):
    """Two groups for all classes: 1 of 2 deals has the only right side."""
    clips = make_clips([5, 5], [0, 0, 1, 1, 1] * 2)
    result = draw(clips, ways=2, groups="strict")
    assert (clips.groups[result.indices[..., :2]] == 0).all()
    rare = make_clips([9] * 4, [0, *[1] * 8] * 4)  # shots of group 0 alone, a deal in 64
    result = draw(rare, ways=4, shots=1, queries=8, groups="strict", episodes=50)
    assert (rare.groups[result.indices[..., :1]] == 0).all()
    monkeypatch.setattr(_sampler, "NUMBERS_AT_ONCE", 40)
    tied = make_clips([16] * 4, SHARED * 4)
    assert meetings(tied, draw(tied, groups="strict", episodes=9)) == (0, 0)


def test_classes_that_cannot_be_filled_are_named(make_clips):
    """Each class could do alone, but what is left for queries in one is needed for shots."""
    opposite = make_clips([3, 3, 9], [0, 1, 1, 0, 0, 1, *range(2, 11)])
    asked = {"ways": 2, "shots": 1, "queries": 2, "episodes": 100}
    assert meetings(opposite, draw(opposite, **asked, groups="strict")) == (0, 0)
    with pytest.raises(NotEnoughClips, match=r"class[01]: 3 in 2 groups.*`groups`"):
        draw(opposite, **asked | {"ways": 3}, groups="strict")
    alone = draw(opposite, **asked | {"ways": 3})
    assert meetings(opposite, alone)[0] == 0


def test_strict_draws_are_the_same_on_any_machine(make_clips):
    clips = make_clips([16] * 4, SHARED * 4)
    assert draw(clips, groups="strict", episodes=50).sha256[:16] == "b08105ed219d83bb"


def test_what_cannot_be_guarded_says_why(make_clips):
    with pytest.raises(NotEnoughClips, match="column 'group'"):
        draw(make_clips([20] * 3), groups="strict")
    with pytest.raises(ConfigError, match="did you mean 'strict'"):
        Config(groups="strickt")


def test_the_guard_is_part_of_the_digest_and_of_the_file(make_clips, tmp_path):
    clips = make_clips([16] * 4, SHARED * 4)
    draws = [draw(clips, groups=groups) for groups in _names()]
    assert len({one.sha256 for one in draws}) == 3
    episode_files.save(tmp_path / "e", clips, draws)
    _, again = episode_files.load(tmp_path / "e", clips)
    assert [one.sampling() for one in again] == [one.sampling() for one in draws]
    assert [one.sha256 for one in again] == [one.sha256 for one in draws]
    # Digests of unguarded facts hold for files that are older than the guard.
    assert "groups" not in draws[0].sampling()


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """Clips of one source are nearly equal; class and source matter about as much."""
    path = tmp_path_factory.mktemp("leaky") / "s"
    fs = testing.fill(path, clips=200, rows=1, dim=8, classes=5, disjoint=False)
    rng = np.random.default_rng(0)
    table = dict(fs.manifest().table)
    table["source"] = tuple(f"s{i // 5 // 4}" for i in range(200))  # 4 clips a class and source
    table["label"] = tuple(f"class{i % 5}" for i in range(200))
    fs.add_manifest(store.Manifest(table=table))
    of_class, of_source = rng.normal(size=(5, 8)), 2 * rng.normal(size=(10, 5, 8))
    values = of_class[np.arange(200) % 5] + of_source[np.arange(200) // 20, np.arange(200) % 5]
    values += 0.2 * rng.normal(size=values.shape)
    spec = store.FeatureSpec(slug="leaky", modality="visual", dim=8, identity={})
    fs.add_feature(spec).commit(
        store.UnitRows(
            clip_ids=fs.manifest().clip_ids,
            values=values.astype(np.float16),
            row_time_ms=np.zeros(200, np.int32),
            row_count=np.ones(200, np.uint16),
            status=np.zeros(200, np.uint8),
            media_sha256=np.zeros((200, 32), np.uint8),
            detail=("",) * 200,
        )
    )
    return path


ASKED = {
    "visual": "leaky", "support": ("v",), "split": "all", "group": "source",
    "ways": 3, "queries": 5, "episodes": 300, "shots": (1, 5), "heads": ("prototypes", "nearest"),
}  # fmt: skip


def test_inflation_is_the_gain_of_mixed_groups_on_the_same_classes(leaky):
    result = learn.run_episodes(leaky, **ASKED, inflation=True)
    told = result.to_dict()
    assert [(one["head"], one["shots"]) for one in told["inflation"]] == [
        (row["head"], row["shots"]) for row in sorted(told["results"], key=lambda r: r["shots"])
    ]
    mixed = learn.run_episodes(leaky, **ASKED, groups="mixed")
    for one in result.inflation:
        (own,) = (r for r in result.results if (r.head, r.shots) == (one.head, one.shots))
        (other,) = (r for r in mixed.results if (r.head, r.shots) == (one.head, one.shots))
        assert (one.guarded, one.mixed) == (own.accuracy, other.accuracy)
        assert one.inflation == other.accuracy - own.accuracy > 0.03
        halves = [ci95(r.of_episodes, "t-ddof1") for r in (own, other)]
        assert one.ci95 == pytest.approx(np.sqrt(halves[0] ** 2 + halves[1] ** 2))
    assert "inflation" not in mixed.to_dict()
    assert mixed.sampling["groups"] == "mixed"
    assert result.sampling["groups"] == "within"


def test_inflation_without_a_guard_is_refused(leaky):
    with pytest.raises(ConfigError, match="`groups` mixed"):
        learn.run_episodes(leaky, **ASKED, groups="mixed", inflation=True)
    with pytest.raises(ConfigError, match="column 'group'"):
        learn.run_episodes(leaky, **ASKED | {"group": "none"}, inflation=True)


def test_classes_that_the_guard_leaves_out_are_left_out_of_the_comparison(leaky, tmp_path):
    """A class of one source can be drawn only where groups may meet."""
    table = dict(store.open(leaky).manifest().table)
    table["source"] = tuple(
        "one" if label == "class0" else source
        for label, source in zip(table["label"], table["source"], strict=True)
    )
    lines = [
        ",".join(row) for row in zip(table["path"], table["label"], table["source"], strict=True)
    ]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,source", *lines]) + "\n")
    asked = ASKED | {"manifest": tmp_path / "m.csv", "shots": (1,), "episodes": 100}
    result = learn.run_episodes(leaky, **asked, inflation=True)
    (tmp_path / "without.csv").write_text(
        "\n".join(["path,label,source", *(line for line in lines if ",class0," not in line)]) + "\n"
    )
    without = learn.run_episodes(
        leaky, **asked | {"manifest": tmp_path / "without.csv"}, groups="mixed"
    )
    assert [one.mixed for one in result.inflation] == [r.accuracy for r in without.results]
