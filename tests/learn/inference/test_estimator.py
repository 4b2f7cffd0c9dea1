"""`FewShotClassifier`: scikit-learn's rules, and the answers of `learn predict`."""

import pickle

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import learn
from learn import FewShotClassifier
from store import testing
from store.errors import ConfigError


def blobs(clips=60, classes=3, dims=(6, 5), seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(clips) % classes
    parts = [3 * rng.standard_normal((classes, d))[y] + rng.standard_normal((clips, d))
             for d in dims]  # fmt: skip
    return np.concatenate(parts, 1), np.array(["red", "green", "blue"])[y]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    "head", ["default", pytest.param("prototypes:cosine", marks=pytest.mark.soak)]
)
def test_scikit_learns_own_checks_pass(head):
    results = check_estimator(FewShotClassifier(head), on_fail=None, on_skip=None)
    failed = [r["check_name"] for r in results if r["status"] == "failed"]
    assert failed == []
    assert sum(r["status"] == "passed" for r in results) > 50


def test_answers_are_those_of_learn_predict(tmp_path):
    fs = testing.fill(tmp_path / "s", clips=90, rows=3, dim=8, classes=3, disjoint=False)
    table = fs.manifest().to_pandas()
    vectors = fs[next(n for n in fs.features if "visual" in n)].to_pandas(rows="mean")
    known = table[table.split == "train"]
    known[["label"]].to_csv(tmp_path / "known.csv")
    learn.predict(
        fs.path, support=tmp_path / "known.csv", output=tmp_path / "a.csv", mode="v", group="none"
    )
    rows = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()]
    told = {row[0]: row for row in rows[1:]}
    model = FewShotClassifier().fit(vectors.loc[known.index], known["label"])
    asked = vectors.loc[list(told)]
    column = rows[0].index(next(name for name in rows[0] if name.startswith("label")))
    ours = dict(zip(asked.index, model.predict(asked), strict=True))
    assert ours == {clip: row[column] for clip, row in told.items()}
    shares = model.predict_proba(asked).max(1)
    confidence = rows[0].index(next(name for name in rows[0] if "confidence" in name))
    theirs = [float(told[clip][confidence]) for clip in asked.index]
    np.testing.assert_allclose(shares, theirs, atol=2e-3)


def test_senses_are_weighed_and_a_missing_one_says_nothing():
    X, y = blobs()
    model = FewShotClassifier("prototypes", senses=(6, 5)).fit(X[:30], y[:30])
    assert (model.predict(X[30:]) == y[30:]).mean() > 0.9
    deaf = X[30:].copy()
    deaf[:, 6:] = np.nan
    alone = FewShotClassifier("prototypes").fit(X[:30, :6], y[:30])
    assert (model.predict(deaf) == alone.predict(X[30:, :6])).all()
    mixed = np.where(np.arange(30)[:, None] % 2, deaf, X[30:])
    together = model.decision_function(mixed)
    np.testing.assert_allclose(together[1::2], model.decision_function(deaf)[1::2])
    shots = X[:30].copy()
    shots[::3, :6] = np.nan  # some of the labelled ones lack sight
    assert (FewShotClassifier(senses=(6, 5)).fit(shots, y[:30]).predict(X[30:]) == y[30:]).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda X: X[:, :10], "features|add up"),
        (lambda X: np.where(np.arange(11) == 0, np.nan, X), "NaN in part"),
        (lambda X: np.full_like(X, np.nan), "every sense"),
    ],
)
def test_what_senses_cannot_be(change, says):
    X, y = blobs()
    with pytest.raises(ValueError, match=says):
        FewShotClassifier(senses=(6, 5)).fit(change(X), y)
    with pytest.raises(ValueError, match="NaN"):
        FewShotClassifier().fit(np.full_like(X, np.nan), y)


def test_heads_that_judge_no_single_clip_are_refused():
    X, y = blobs()
    for head in ("tim", "cross_modal"):
        with pytest.raises(ConfigError, match="use a head such as default"):
            FewShotClassifier(head).fit(X, y)


def test_it_stands_in_pipelines_and_cross_validation_by_groups():
    X, y = blobs()
    model = make_pipeline(StandardScaler(), FewShotClassifier("ridge:alpha=0.5"))
    scores = cross_val_score(model, X, y, groups=np.arange(60) // 6, cv=GroupKFold(3))
    assert scores.min() > 0.9


def test_groups_are_left_out_together_when_probabilities_are_fitted():
    """Twins in one group: by clips each would be told by its twin, with far too much confidence."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((20, 8)), 2, axis=0)
    y, groups = np.repeat(np.arange(20) % 2, 2), np.repeat(np.arange(20), 2)
    sure = FewShotClassifier("nearest").fit(X, y).predict_proba(X).max(1).mean()
    unsure = FewShotClassifier("nearest").fit(X, y, groups=groups).predict_proba(X).max(1).mean()
    assert unsure < sure - 0.1
    with pytest.raises(ValueError, match="3 groups for 40 clips"):
        FewShotClassifier().fit(X, y, groups=[1, 2, 3])


def test_a_pickled_one_answers_alike():
    X, y = blobs()
    model = FewShotClassifier(senses=(6, 5)).fit(X[:30], y[:30])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("head", ["prototypes", "nearest", "ridge", "default"])
def test_a_class_without_the_senses_of_a_clip_is_never_its_answer(head):
    """Scores of some heads are below zero throughout; what was not scored is not above them."""
    nan = np.nan
    X = np.array([
        [1, 0, nan, nan], [0.9, 0.1, nan, nan], [0, 1, 2, 1], [0.1, 0.9, 1, 2], [nan, nan, 5, 5],
        [nan, nan, 5, 6],
    ])  # fmt: skip
    model = learn.FewShotClassifier(head, senses=(2, 2)).fit(X, list("aabbcc"))
    asked = [[1, 0, nan, nan], [0, 1, nan, nan], [nan, nan, 5, 5]]
    assert model.predict(asked).tolist() == ["a", "b", "c"]
    p, scores = model.predict_proba(asked), model.decision_function(asked)
    assert model.classes_[p.argmax(1)].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p[:2, 2] == 0).all()
    assert (scores[:2, 2] == -np.inf).all()
    assert scores[2, 0] == -np.inf
