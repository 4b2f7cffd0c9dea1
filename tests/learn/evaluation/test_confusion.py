"""What was answered: counted by hand, and the same numbers as the accuracy."""

import json
from collections import Counter

import numpy as np
import pytest

import learn
from learn.data.clips import Clips
from learn.evaluation import confusion
from learn.evaluation.confusion import EXAMPLES, PAIRS, tally
from learn.evaluation.results import load_result
from learn.fewshot.tasks import Episodes
from store.errors import InputError

FEW = {"ways": 4, "queries": 5, "episodes": 60, "support": ("v",)}


def clips(classes, each):
    class_ids = np.arange(classes * each) % classes
    return Clips(
        ids=tuple(f"clip{i:03d}" for i in range(len(class_ids))),
        class_ids=class_ids.astype(np.int32),
        classes=tuple(f"class{c:02d}" for c in range(classes)),
        groups=None,
        split="all",
    )


def drawn(of, ways, shots, queries, episodes, rng):
    classes = np.stack([rng.permutation(len(of.classes))[:ways] for _ in range(episodes)])
    indices = [
        [rng.permutation(np.flatnonzero(of.class_ids == c))[: shots + queries] for c in episode]
        for episode in classes
    ]
    return Episodes(
        indices=np.array(indices, np.int32), classes=classes.astype(np.int32), shots=shots,
        seed=0, clips_sha256=of.sha256,
    )  # fmt: skip


def test_the_counts_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    of = clips(9, 12)
    draw = drawn(of, 4, 2, 3, 40, rng)
    predictions = rng.integers(0, 4, draw.query.shape)
    counted = tally(of, draw, predictions)
    asked, correct, times, met, who = Counter(), Counter(), Counter(), Counter(), Counter()
    for e in range(len(draw)):
        names = [of.classes[c] for c in draw.classes[e]]
        for m, clip in enumerate(draw.query[e]):
            truth, answer = of.classes[of.class_ids[clip]], names[predictions[e, m]]
            asked[truth] += 1
            correct[truth] += truth == answer
            met.update((truth, name) for name in names)
            if truth != answer:
                times[truth, answer] += 1
                who[truth, answer, of.ids[clip]] += 1
    assert {c.name: (c.asked, c.right) for c in counted.classes} == {
        name: (asked[name], correct[name]) for name in asked
    }
    assert len(counted.confusions) == PAIRS < len(times)
    assert [c.times for c in counted.confusions] == sorted(times.values(), reverse=True)[:PAIRS]
    for c in counted.confusions:
        assert (c.times, c.of) == (times[c.truth, c.answer], met[c.truth, c.answer])
        of_pair = {clip: n for (t, a, clip), n in who.items() if (t, a) == (c.truth, c.answer)}
        assert [e.times for e in c.clips] == sorted(of_pair.values(), reverse=True)[:EXAMPLES]
        assert all(of_pair[e.clip_id] == e.times for e in c.clips)


def test_many_classes_are_counted_by_sorting_to_the_same_end(monkeypatch):
    rng = np.random.default_rng(1)
    of = clips(30, 8)
    draw = drawn(of, 5, 1, 4, 80, rng)
    predictions = rng.integers(0, 5, draw.query.shape)
    by_table = tally(of, draw, predictions)
    monkeypatch.setattr(confusion, "TABLE", 0)
    assert tally(of, draw, predictions) == by_table


def test_where_nothing_is_wrong_nothing_is_confused():
    of = clips(5, 6)
    draw = drawn(of, 5, 1, 2, 10, np.random.default_rng(0))
    counted = tally(of, draw, np.tile(draw.targets, (10, 1)))
    assert counted.confusions == ()
    assert all(c.right == c.asked == 20 for c in counted.classes)


def test_a_saved_result_keeps_them(filled, tmp_path):
    result = learn.run_episodes(filled, **FEW, shots=(1, 2))
    result.save(tmp_path / "r")
    saved = load_result(tmp_path / "r")
    assert list(saved.tallies) == [
        json.loads(json.dumps(row.tally.to_dict())) for row in result.results
    ]
    for row, counts in zip(saved.result["results"], saved.tallies, strict=True):
        share = sum(c["right"] for c in counts["classes"]) / sum(
            c["asked"] for c in counts["classes"]
        )
        assert share == pytest.approx(row["accuracy"])


def test_changed_answers_are_noticed(filled, tmp_path):
    learn.run_episodes(filled, **FEW).save(tmp_path / "r")
    path = tmp_path / "r" / "answers.json"
    tallies = json.loads(path.read_text())
    tallies[0]["classes"][0]["right"] -= 9
    path.write_text(json.dumps(tallies))
    with pytest.raises(InputError, match="changed"):
        load_result(tmp_path / "r")
    path.write_text("[{}]")
    with pytest.raises(InputError, match="not a result"):
        load_result(tmp_path / "r")
    path.unlink()  # older results have none
    assert load_result(tmp_path / "r").tallies == ()


def test_the_matrix_holds_every_answer_and_every_meeting():
    rng = np.random.default_rng(3)
    of = clips(9, 12)
    draw = drawn(of, 4, 2, 3, 40, rng)
    predictions = rng.integers(0, 4, draw.query.shape)
    found = tally(of, draw, predictions).matrix
    times, met = Counter(), Counter()
    for e in range(len(draw)):
        names = [of.classes[c] for c in draw.classes[e]]
        for m, clip in enumerate(draw.query[e]):
            truth = of.classes[of.class_ids[clip]]
            times[truth, names[predictions[e, m]]] += 1
            met.update((truth, name) for name in names)
    for i, truth in enumerate(found.classes):
        for j, answer in enumerate(found.classes):
            assert (found.times[i][j], found.of[i][j]) == (times[truth, answer], met[truth, answer])
    assert sum(map(sum, found.times)) == draw.query.size


def test_the_matrix_of_many_classes_is_not_kept(monkeypatch):
    monkeypatch.setattr(confusion, "MATRIX", 8)
    rng = np.random.default_rng(3)
    of = clips(9, 12)
    draw = drawn(of, 4, 2, 3, 10, rng)
    counted = tally(of, draw, rng.integers(0, 4, draw.query.shape))
    assert counted.matrix is None
    assert "matrix" not in counted.to_dict()
