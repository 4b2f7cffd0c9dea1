"""Episodes of clips with several labels: what is drawn, and the mean average precision of it."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import learn
import store
from learn.commands.tables import episodes_table
from learn.data.clips import UNLABELLED, Clips
from learn.evaluation.results import load_result
from learn.fewshot.heads import Context
from learn.fewshot.metrics import Predictor, measure, ranked
from learn.fewshot.modes import Pair
from learn.fewshot.tasks import multi_label
from store import plugins
from store.errors import ConfigError, InputError, NotEnoughClips

FEW = {"ways": 3, "queries": 4, "episodes": 40, "support": ("v",), "split": "all"}


@pytest.fixture
def clips():
    """Six labels; a clip has its own, and often one of two that go across the others."""
    rng = np.random.default_rng(0)
    own = np.arange(120) % 4
    targets = np.zeros((120, 6), bool)
    targets[np.arange(120), own] = True
    targets[:, 4:] = rng.random((120, 2)) < 0.4
    return Clips(
        ids=tuple(f"c{i:03d}" for i in range(120)),
        class_ids=np.full(120, UNLABELLED, np.int32),
        classes=tuple("abcdef"),
        groups=(np.arange(120) // 3).astype(np.int32),
        split="all",
        targets=targets,
    )


def draw(clips, **asked):
    config = multi_label.Config(**{"ways": 3, "shots": 2, "queries": 4, "episodes": 200, **asked})
    return multi_label.build(config)(clips, seed=0)


def test_no_clip_and_no_group_is_on_both_sides_whatever_its_label(clips):
    drawn = draw(clips)
    for support, query in zip(drawn.support, drawn.query, strict=True):
        assert not set(clips.groups[support.ravel()]) & set(clips.groups[query])
        assert len(set(query)) == len(query)
        assert len(set(support.ravel())) == support.size
    mixed = draw(clips, groups="mixed")
    met = 0
    for support, query in zip(mixed.support, mixed.query, strict=True):
        assert not set(support.ravel()) & set(query)
        met += bool(set(clips.groups[support.ravel()]) & set(clips.groups[query]))
    assert met > 100


def test_the_same_on_any_machine(clips):
    assert draw(clips, episodes=50).sha256[:16] == "43ce68c26fef5dd9"


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores, truth = rng.random((3, 9, 2)), rng.random((3, 9, 2)) < 0.4
    truth[:, 0] = True
    found = ranked(scores, truth)
    for e in range(3):
        for n in range(2):
            expected = average_precision_score(truth[e, :, n], scores[e, :, n])
            assert found[e, n] == pytest.approx(expected)


def test_the_number_is_a_loop_over_labels_that_counts_every_label(clips):
    drawn = draw(clips, episodes=30)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=rng) + torch.from_numpy(clips.targets).float()
    head = plugins.build("learn.fewshot.heads", "prototypes")
    predictor = Predictor(
        head=head,
        pair=Pair(support=x, query=x, modality_dims=(6,)),
        context=Context(modality_dims=(6,)),
    )
    found = measure(clips, drawn, predictor).of_episodes
    for e, (labels, support, query) in enumerate(
        zip(drawn.classes, drawn.support, drawn.query, strict=True)
    ):
        each = []
        for n, label in enumerate(labels):
            mean = x[support[n].astype(np.int64)].mean(0)
            scores = -(x[query.astype(np.int64)] - mean).square().sum(1).numpy()
            assert clips.targets[query, label].sum() >= 4
            each.append(average_precision_score(clips.targets[query, label], scores))
        assert found[e] == pytest.approx(np.mean(each))


def test_from_a_store_to_the_table(filled, tmp_path, capsys):
    table = store.open(filled).manifest()
    lines = ["path,label,group"] + [
        f"{clip},{label}{';even' if int(label[-1]) % 2 else ''},{group}"
        for clip, label, group in zip(
            table.clip_ids, table.column("label"), table.column("group"), strict=True
        )
    ]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    asked = {"manifest": tmp_path / "m.csv", **FEW}
    file = tmp_path / "e"
    found = learn.run_episodes(
        filled, **asked, task="multi_label", heads=("prototypes", "tim"), shots=(1, 3),
        save_episodes=file, inflation=True,
    )  # fmt: skip
    assert all(row.metric == "map" and row.accuracy > 0.6 for row in found.results)
    assert len(found.inflation) == 4
    again = learn.run_episodes(filled, **asked, heads=("prototypes",), episodes_file=file)
    assert again.results[1].accuracy == found.results[1].accuracy
    found.save(tmp_path / "run")
    assert len(load_result(tmp_path / "run").of_episodes) == 4
    episodes_table(found.to_dict())
    assert "multi_label (ways=3, queries=4), map" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="pt_map needs equally many"):
        learn.run_episodes(filled, **asked, task="multi_label", heads=("pt_map",))
    with pytest.raises(InputError, match="several labels"):
        learn.run_episodes(filled, **asked)


def test_what_cannot_be_drawn_names_the_labels(clips):
    with pytest.raises(NotEnoughClips, match=r"what lacks clips: a: 30"):
        draw(clips, shots=10, queries=25)
    one = Clips(
        ids=("a",), class_ids=np.zeros(1, np.int32), classes=("a",), groups=None, split="all"
    )
    with pytest.raises(ConfigError, match="with all their labels"):
        multi_label.build(multi_label.Config())(one, seed=0)
