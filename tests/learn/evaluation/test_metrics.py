"""Metrics, against scikit-learn and against plain loops."""

from math import comb

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs

from learn.evaluation import metrics


def test_classification_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    class_ids = rng.integers(0, 7, 200)
    class_ids[class_ids == 3] = 4  # nobody is of class 3
    scores = rng.random((200, 8)) + 0.7 * np.eye(8)[class_ids]
    values, each = metrics.classification(scores, class_ids, [f"k{c}" for c in range(8)])
    named = scores.argmax(1)
    present = np.unique(class_ids)
    assert values["top1"] == pytest.approx((named == class_ids).mean())
    assert values["top5"] == pytest.approx(
        theirs.top_k_accuracy_score(class_ids, scores, k=5, labels=range(8))
    )
    assert values["macro_f1"] == pytest.approx(
        theirs.f1_score(class_ids, named, labels=present, average="macro")
    )
    assert values["balanced_accuracy"] == pytest.approx(
        theirs.recall_score(class_ids, named, labels=present, average="macro")
    )
    assert values["largest_class"] == pytest.approx(np.bincount(class_ids).max() / 200)
    assert [row.name for row in each] == [f"k{c}" for c in present]
    assert sum(row.clips for row in each) == 200


def test_the_first_of_equal_scores_is_the_answer_and_few_classes_have_no_top5():
    values, _ = metrics.classification(np.ones((4, 3)), np.array([0, 0, 1, 2]), "abc")
    assert values["top1"] == 0.5
    assert "top5" not in values


def test_labels_agree_with_scikit_learn_over_classes_with_positives():
    rng = np.random.default_rng(1)
    truth = rng.random((120, 6)) < 0.3
    truth[:, 2] = False
    scores = rng.random((120, 6)) * 0.7 + 0.3 * truth
    thresholds = np.full(6, 0.5)
    values, each = metrics.multilabel(scores, truth, thresholds, "abcdef")
    present = [0, 1, 3, 4, 5]
    named = scores >= 0.5
    assert values["map"] == pytest.approx(
        np.mean([theirs.average_precision_score(truth[:, c], scores[:, c]) for c in present])
    )
    assert values["macro_f1"] == pytest.approx(
        theirs.f1_score(truth[:, present], named[:, present], average="macro")
    )
    assert values["micro_f1"] == pytest.approx(theirs.f1_score(truth, named, average="micro"))
    assert [row.name for row in each] == list("abdef")


def test_thresholds_are_the_best_of_all():
    rng = np.random.default_rng(2)
    truth = rng.random((60, 4)) < 0.3
    truth[:, 3] = False
    scores = rng.random((60, 4)).round(1) + 0.2 * truth  # with equals
    thresholds = metrics.best_thresholds(scores, truth, 0.5)
    assert thresholds[3] == 0.5
    for c in range(3):
        f1 = [theirs.f1_score(truth[:, c], scores[:, c] >= t) for t in np.unique(scores[:, c])]
        assert theirs.f1_score(truth[:, c], scores[:, c] >= thresholds[c]) == pytest.approx(max(f1))


def test_retrieval_is_that_of_a_loop(monkeypatch):
    monkeypatch.setattr(metrics, "NUMBERS_AT_ONCE", 200)  # several parts
    rng = np.random.default_rng(3)
    query, gallery = (torch.from_numpy(rng.standard_normal((40, 5))) for _ in range(2))
    gallery[7] = gallery[3]  # equal scores: no order is known
    gallery[20:24] = 0
    class_ids = torch.from_numpy(rng.integers(0, 6, 40))
    class_ids[11] = 99  # nobody else is of that class
    groups = torch.arange(40) // 2
    values, asked = metrics.retrieval(query, gallery, class_ids, class_ids, groups, groups)
    ranks, averages, found = [], [], []
    unit = [(x / x.norm(dim=1, keepdim=True).clamp_min(1e-9)).numpy() for x in (query, gallery)]
    for i in range(40):
        others = [j for j in range(40) if groups[j] != groups[i]]
        score = unit[1][others] @ unit[0][i]
        score = score.round(10)
        hits = np.array([bool(class_ids[j] == class_ids[i]) for j in others])
        if hits.any():
            first = score == score[hits].max()
            before, equal, good = (score > score[hits].max()).sum(), first.sum(), hits[first].sum()
            ranks.append(before + (equal + 1) / (good + 1))
            drawn = [min(max(0, k - before), equal) for k in (1, 5, 10)]
            found.append([1 - comb(equal - good, n) / comb(equal, n) for n in drawn])
            averages.append(theirs.average_precision_score(hits, score))
    assert asked == len(ranks) == 39
    for k, share in zip((1, 5, 10), np.mean(found, axis=0), strict=True):
        assert values[f"r{k}"] == pytest.approx(share)
    assert values["median_rank"] == np.median(ranks)
    assert values["map"] == pytest.approx(np.mean(averages))


def slowly(query, gallery, relevant, wanted, hidden, hides):
    """By an order of the whole gallery for each query, as it was before only hits were ranked."""
    q, g = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (query, gallery))
    found: list[Tensor] = []
    first: list[Tensor] = []
    precision: list[Tensor] = []
    at_once = max(1, 4_000_000 // max(1, len(g)))
    for part in torch.split(torch.arange(len(q)), at_once):
        score = q[part] @ g.T
        hit = relevant == wanted[part][:, None]
        if hidden is not None and hides is not None:
            removed = hidden == hides[part][:, None]
            score, hit = score.masked_fill(removed, -torch.inf), hit & ~removed
        score, hit = score[hit.any(1)], hit[hit.any(1)]
        ranked, order = score.sort(dim=1, descending=True, stable=True)
        hit = hit.gather(1, order)
        start, stop = equals(ranked)
        hits = hit.cumsum(1)
        precision.append((hits.gather(1, stop - 1).double() / stop * hit).sum(1) / hits[:, -1])
        best = hit.int().argmax(1, keepdim=True)
        before, size = start.gather(1, best)[:, 0], (stop - start).gather(1, best)[:, 0]
        of_best = hits.gather(1, stop.gather(1, best) - 1)[:, 0]  # hits among the first's equals
        first.append(before + (size + 1).double() / (of_best + 1))
        found.append(
            torch.stack([metrics._found(k - before, size, of_best) for k in metrics.RECALL_AT], 1)
        )
    rank, average = torch.cat(first), torch.cat(precision)
    if not len(rank):
        return {}, 0
    recall = torch.cat(found).mean(0).tolist()
    values = {f"r{k}": share for k, share in zip(metrics.RECALL_AT, recall, strict=True)}
    values |= {"median_rank": float(np.median(rank.numpy())), "map": float(average.mean())}
    return values, len(rank)


def equals(ranked):
    positions = torch.arange(ranked.shape[1]).expand(ranked.shape)
    new = torch.ones_like(ranked, dtype=torch.bool)
    # -inf, for what is not in the gallery, is no number to take from another.
    new[:, 1:] = (ranked[:, :-1] - metrics.ROUNDING > ranked[:, 1:]).logical_or(
        ranked[:, 1:].isneginf()
    )
    start = torch.where(new, positions, 0).cummax(1).values
    last = torch.cat([new[:, 1:], torch.ones_like(new[:, :1])], 1)
    ends = torch.where(last, positions + 1, ranked.shape[1])
    return start, ends.flip(1).cummin(1).values.flip(1)


@pytest.mark.parametrize("seed", range(12))
def test_ranks_of_hits_are_those_of_a_whole_order(seed):
    rng = np.random.default_rng(seed)
    size, dim = int(rng.integers(2, 90)), int(rng.integers(1, 6))
    query, gallery = (torch.from_numpy(rng.standard_normal((size, dim))) for _ in range(2))
    copies = rng.integers(0, size, size // 2)
    gallery[rng.integers(0, size, size // 2)] = gallery[copies]
    # Chains of scores of which neighbours are equal and ends are not.
    gallery[rng.integers(0, size, size // 3)] += 4e-13 * rng.standard_normal()
    gallery[rng.integers(0, size, 2)] = 0
    class_ids = torch.from_numpy(rng.integers(0, 1 + size // 4, size))
    groups = torch.from_numpy(rng.integers(0, 1 + size // 2, size)) if seed % 3 else None
    asked = (query, gallery, class_ids, class_ids, groups, groups)
    values, queries = metrics.retrieval(*asked)
    expected, as_many = slowly(*asked)
    assert queries == as_many
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_clip_of_its_own_is_found_first_and_equal_items_are_not_all_first():
    x = torch.eye(6)
    own = torch.arange(6)
    assert metrics.retrieval(x, x, own, own)[0]["r1"] == 1.0
    same = metrics.retrieval(torch.ones(6, 2), torch.ones(6, 2), own, own)[0]
    assert same["median_rank"] == 3.5
    assert same["r1"] == pytest.approx(1 / 6)
    assert metrics.retrieval(x, x, own, own + 9) == ({}, 0)


def test_where_everything_is_equal_retrieval_is_chance_whatever_the_order_of_clips():
    """With classes one after the other, a ranking by position would find the own class first."""
    class_ids, own = torch.arange(200) // 20, torch.arange(200)
    values, _ = metrics.retrieval(torch.ones(200, 4), torch.ones(200, 4), class_ids, class_ids,
                                  own, own)  # fmt: skip
    assert values["map"] == pytest.approx(19 / 199)
    assert values["r1"] == pytest.approx(19 / 199)
    assert values["r5"] == pytest.approx(1 - comb(180, 5) / comb(199, 5))
    assert values["median_rank"] == pytest.approx(200 / 20)
