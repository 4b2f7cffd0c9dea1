"""Base and new classes together: roles, S and U by hand, and a beta that only val has seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import learn
import store
from learn.commands.tables import episodes_table
from learn.data.clips import BASE, QUERY, SHOT
from learn.data.evaluation_set import load_evaluation_set
from learn.evaluation.missing_modality import Drop
from learn.evaluation.pools import generalised as pool
from learn.evaluation.pools import of_val
from learn.evaluation.results import load_result
from learn.fewshot.heads import Context
from learn.fewshot.metrics import (
    Margins,
    Predictor,
    best_beta,
    harmonic,
    margins,
    measure,
    seen_and_unseen,
)
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import draw_again, generalised
from store import plugins
from store.errors import ConfigError, InputError, NotEnoughClips

TASK = "generalised:base_ways=3,base_shots=6"
FEW = {"ways": 2, "queries": 4, "episodes": 60, "split": "test", "support": ("v",)}


@pytest.fixture(scope="module")
def manifest(filled, tmp_path_factory):
    """Of eight classes three are base, two of them also asked about in test; val and test have new
    ones of their own and one that both have."""
    table = store.open(filled).manifest()
    names = sorted(set(table.column("label")))
    of = {"train": names[:3], "val": [*names[:2], *names[3:6]], "test": [*names[:2], *names[5:]]}
    lines = ["path,split,label,group"]
    for i, (clip, label, group) in enumerate(
        zip(table.clip_ids, table.column("label"), table.column("group"), strict=True)
    ):
        able = [split for split in of if label in of[split]]
        lines.append(f"{clip},{able[i // 8 % len(able)]},{label},{group}")
    path = tmp_path_factory.mktemp("generalised") / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    return path, names


@pytest.fixture
def side(filled, manifest):
    fs = store.open(filled)
    features = {"visual": fs[next(n for n in fs.features if fs[n].modality == "visual")]}
    table = store.read_manifest(manifest[0])
    return load_evaluation_set(table, features, split="all", label="label", group=None), table


def test_clips_have_the_roles_of_their_split_and_class(side, manifest):
    everything, table = side
    names = manifest[1]
    result = pool(everything, table, "test")
    split = dict(zip(table.clip_ids, table.column("split"), strict=True))
    for clip, code, role in zip(
        result.clips.ids, result.clips.class_ids, result.clips.roles, strict=True
    ):
        name = result.clips.classes[code]
        expected = {
            ("train", True): SHOT + BASE + (QUERY if name == names[2] else 0),
            ("test", True): QUERY + BASE,
            ("test", False): SHOT + QUERY,
        }
        assert role == expected[split[clip], name in names[:3]], (clip, name)
    val = of_val(everything, table, "test")
    new = {val.clips.classes[c] for c, r in zip(val.clips.class_ids, val.clips.roles, strict=True)
           if not r & BASE}  # fmt: skip
    assert new == set(names[3:5])
    assert of_val(everything, table, "val") is None


def test_an_episode_has_new_classes_first_and_then_base(side):
    clips = pool(*side, "test").clips
    config = generalised.Config(ways=2, shots=2, queries=4, base_ways=3, base_shots=6, episodes=90)
    drawn = generalised.build(config)(clips, seed=0)
    based = np.array([(clips.roles[clips.class_ids == c] & BASE > 0).any() for c in range(6)])
    assert (based[drawn.classes] == [False, False, True, True, True]).all()
    assert ((drawn.support >= 0).sum(2) == [2, 2, 6, 6, 6]).all()
    assert drawn.balanced
    even = generalised.build(
        generalised.Config(ways=2, shots=2, queries=4, base_ways=3, base_shots=0, episodes=9)
    )(clips, seed=0)
    assert (even.indices >= 0).all()
    with pytest.raises(NotEnoughClips, match=r"base classes: .*base_ways"):
        generalised.build(generalised.Config(ways=2, queries=4, base_ways=4))(clips, seed=0)
    with pytest.raises(NotEnoughClips, match="new classes: "):
        generalised.build(generalised.Config(ways=4, queries=4, base_ways=2))(clips, seed=0)


def test_the_same_on_any_machine(make_clips):
    clips = make_clips([20] * 6)
    roles = np.where(clips.class_ids < 3, SHOT + QUERY, SHOT + QUERY + BASE).astype(np.int32)
    config = generalised.Config(ways=2, queries=4, base_ways=3, base_shots=6, episodes=50)
    drawn = generalised.build(config)(replace(clips, roles=roles), seed=0)
    assert drawn.sha256[:16] == "a727755f1823e85b"


@pytest.mark.parametrize("beta", [0.0, 1.5, -2.0])
def test_margins_answer_as_scores_less_beta_do(side, beta):
    clips = pool(*side, "test").clips
    config = generalised.Config(ways=2, shots=1, queries=4, base_ways=3, base_shots=5, episodes=30)
    drawn = generalised.build(config)(clips, seed=1)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(len(clips), 4, generator=rng) + torch.from_numpy(clips.class_ids)[:, None] / 2
    head = plugins.build("learn.fewshot.heads", "prototypes")
    predictor = Predictor(
        head=head,
        pair=Pair(support=x, query=x, modality_dims=(4,)),
        context=Context(modality_dims=(4,)),
    )
    predictions = margins(drawn, predictor).predictions(beta)
    s, u = seen_and_unseen(drawn, predictions)
    for e, (support, query) in enumerate(zip(drawn.support, drawn.asked, strict=True)):
        means = torch.stack([x[k[k >= 0].astype(np.int64)].mean(0) for k in support])
        correct = np.zeros((5, 4), bool)
        for n, of_class in enumerate(query):
            for q, clip in enumerate(of_class):
                scores = -(means - x[int(clip)]).square().sum(1).numpy()
                scores[2:] -= beta
                correct[n, q] = scores.argmax() == n
        assert u[e] == pytest.approx(correct[:2].mean())
        assert s[e] == pytest.approx(correct[2:].mean())
    result = measure(clips, drawn, predictor)
    if beta == 0:
        np.testing.assert_allclose(result.of_episodes, 2 * s * u / np.maximum(s + u, 1e-12))
        assert result.parts["harmonic_mean_of_means"] == pytest.approx(
            2 * s.mean() * u.mean() / (s.mean() + u.mean())
        )
        assert result.parts["beta"] == 0


def test_the_best_beta_is_the_best_and_zero_if_it_may(side):
    clips = pool(*side, "test").clips
    config = generalised.Config(ways=2, shots=1, queries=4, base_ways=3, base_shots=5, episodes=20)
    drawn = generalised.build(config)(clips, seed=1)
    rng = np.random.default_rng(0)
    correct = np.tile(drawn.targets, (20, 1))
    ahead = rng.normal(size=correct.shape) + 3 + (correct >= 2)  # base is nearly always ahead
    result = Margins(
        ahead, np.minimum(correct, 1), np.maximum(correct, 2), np.zeros(ahead.shape, bool)
    )
    beta = best_beta(drawn, result)

    def worth(one):
        return harmonic(*seen_and_unseen(drawn, result.predictions(one))).mean()

    assert 2.5 < beta < 5
    assert worth(beta) >= max(map(worth, np.linspace(-5, 10, 61))) - 0.01
    assert best_beta(drawn, result._replace(ahead=np.where(correct >= 2, 1.0, -1.0))) == 0


def test_from_a_store_to_the_table(filled, manifest, tmp_path, capsys):
    asked = {"manifest": manifest[0], **FEW}
    file = tmp_path / "e"
    result = learn.run_episodes(filled, **asked, task=TASK, shots=(1, 3), save_episodes=file)
    for row, shots in zip(result.results, (1, 3), strict=True):
        assert (row.metric, row.shots, row.ways) == ("harmonic_mean", shots, 5)
        assert row.parts["beta_chosen_on"] == "val"
        assert row.accuracy == pytest.approx(row.of_episodes.mean())
        assert 0.3 < row.parts["unseen"] <= row.parts["unseen_alone"] <= 1
    again = learn.run_episodes(filled, **asked, episodes_file=file)
    assert [r.accuracy for r in again.results] == [r.accuracy for r in result.results]
    result.save(tmp_path / "run")
    assert load_result(tmp_path / "run").result["results"][0]["parts"]
    episodes_table(result.to_dict())
    assert "beta chosen on val" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="harmonic_mean"):
        learn.run_episodes(filled, **asked, task=TASK, drop=Drop(modes=("a",)))


def test_beta_comes_from_val_and_nothing_of_test_has_a_say(filled, manifest, side, tmp_path):
    asked = {"manifest": manifest[0], **FEW}
    result = learn.run_episodes(filled, **asked, heads=("prototypes",), task=TASK, shots=(2,))
    val = of_val(*side, "test")
    drawn = draw_again(val.clips, result.draws[0])
    x = val.rows["visual"].means()
    head = plugins.build("learn.fewshot.heads", "prototypes")
    origin = pool(*side, "test").rows["visual"].means().mean(0)
    context = Context(modality_dims=(x.shape[1],), origin=origin)
    predictor = Predictor(
        head=head, pair=Pair(support=x, query=x, modality_dims=(x.shape[1],)), context=context
    )
    assert result.results[0].parts["beta"] == pytest.approx(
        best_beta(drawn, margins(drawn, predictor))
    )
    lines = (manifest[0]).read_text().replace(",val,", ",away,")
    (tmp_path / "m.csv").write_text(lines)
    (row,) = learn.run_episodes(
        filled, **asked | {"manifest": tmp_path / "m.csv"}, task=TASK, shots=(2,)
    ).results
    assert row.parts["beta"] == 0
    assert "nothing" in row.parts["beta_chosen_on"]


def test_what_has_no_base_is_refused(filled, manifest):
    for split in ("all", "train"):
        with pytest.raises(InputError, match="other classes"):
            learn.run_episodes(filled, manifest=manifest[0], **FEW | {"split": split}, task=TASK)
    with pytest.raises(InputError, match="other classes"):
        learn.run_episodes(filled, **FEW, task=TASK)
