"""NT-Xent, supervised contrast, triplets, CCL and distillation, each against its equation."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from learn.training.objectives import (
    Batch,
    ObjectiveContext,
    ccl,
    distillation,
    nt_xent,
    supcon,
    triplet,
)
from store.errors import ConfigError

BOTH = {"visual": 6, "audio": 6}
SCENE = ObjectiveContext(outputs=BOTH, inputs=BOTH, classes=("a", "b", "c"), clips=9)
LABELS = (0, 1, 0, 2, -1, -1, 1)


def batch(labels=LABELS, seed=0):
    visual, audio = torch.randn(2, len(labels), 6, generator=torch.Generator().manual_seed(seed))
    return Batch(
        embeddings={"visual": visual, "audio": audio},
        labels=torch.tensor(labels),
        clips=torch.arange(len(labels)),
        seed=7,
    )


def copied(b, seed=1):
    return replace(b, copies=(b.embeddings, batch(tuple(b.labels.tolist()), seed).embeddings))


def cosine(x, y):
    return float(x @ y / x.norm() / y.norm())


def alike(b, i, j):
    return i == j or bool(b.labels[i] == b.labels[j] >= 0)


# ── NT-Xent ──────────────────────────────────────────────────────────────────────────────────────


def literal_nt_xent(one, two, temperature):
    views, n = [*one, *two], len(one)
    total = 0.0
    for i, view in enumerate(views):
        partner = views[(i + n) % (2 * n)]
        bottom = sum(
            math.exp(cosine(view, other) / temperature) for k, other in enumerate(views) if k != i
        )
        total -= math.log(math.exp(cosine(view, partner) / temperature) / bottom)
    return total / (2 * n)


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1), ("sum", 2)])
def test_nt_xent_is_its_equation(reduction, factor):
    objective = nt_xent.build(nt_xent.Config(temperature=0.3, reduction=reduction), SCENE)
    b = batch()
    wanted = literal_nt_xent(b.embeddings["visual"], b.embeddings["audio"], 0.3)
    assert objective(b).item() == pytest.approx(factor * wanted, rel=1e-5)
    b = copied(b)
    wanted = sum(literal_nt_xent(b.copies[0][m], b.copies[1][m], 0.3) for m in BOTH) / 2
    assert objective(b).item() == pytest.approx(factor * wanted, rel=1e-5)


def test_nt_xent_of_views_that_agree_and_differ_from_all_others():
    """Two clips, views at right angles to the other clip's: 1 - log of e / (e + 2)."""
    axes = torch.eye(2)
    b = Batch(
        embeddings={"visual": axes, "audio": axes},
        labels=torch.tensor([-1, -1]), clips=torch.arange(2),
    )  # fmt: skip
    flat = {"visual": 2, "audio": 2}
    objective = nt_xent.build(
        nt_xent.Config(temperature=1.0),
        ObjectiveContext(outputs=flat, inputs=flat, classes=(), clips=2),
    )
    assert objective(b).item() == pytest.approx(math.log(math.e + 2) - 1, rel=1e-6)


def test_nt_xent_of_one_modality_needs_copies():
    alone = ObjectiveContext(outputs={"audio": 6}, inputs={"audio": 6}, classes=(), clips=9)
    with pytest.raises(ConfigError, match=r"views\.copies=2"):
        nt_xent.build(nt_xent.Config(), alone)
    nt_xent.build(nt_xent.Config(), replace(alone, views=2))


# ── supervised contrast ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("copies", [1, 2])
def test_supcon_is_its_equation(copies):
    b = copied(batch()) if copies == 2 else batch()
    owners, views = [], []
    for copy in b.copies or (b.embeddings,):
        for side in copy.values():
            views += list(side)
            owners += range(len(b))
    total = 0.0
    for i, view in enumerate(views):
        bottom = sum(math.exp(cosine(view, o) / 0.2) for k, o in enumerate(views) if k != i)
        mine = [k for k in range(len(views)) if k != i and alike(b, owners[i], owners[k])]
        logs = [math.log(math.exp(cosine(view, views[k]) / 0.2) / bottom) for k in mine]
        total -= sum(logs) / len(mine)
    got = supcon.build(supcon.Config(temperature=0.2), SCENE)(b)
    assert got.item() == pytest.approx(total / len(views), rel=1e-5)


def test_supcon_without_labels_is_nt_xent():
    b = batch(labels=(-1,) * 7)
    got = supcon.build(supcon.Config(temperature=0.3), SCENE)(b)
    wanted = nt_xent.build(nt_xent.Config(temperature=0.3), SCENE)(b)
    torch.testing.assert_close(got, wanted)


# ── triplets ─────────────────────────────────────────────────────────────────────────────────────


def literal_triplet(b, mining, margin, normalise):
    costs = []
    for left, right in (("visual", "audio"), ("audio", "visual")):
        one, two = (
            [x / x.norm() if normalise else x for x in b.embeddings[m]] for m in (left, right)
        )
        of_pair = []
        for i, anchor in enumerate(one):
            gaps = [float((anchor - y).norm()) for y in two]
            near = [j for j in range(len(two)) if alike(b, i, j)]
            far = [j for j in range(len(two)) if not alike(b, i, j)]
            if not near or not far:
                continue
            if mining == "batch_hard":
                chosen = [(max(gaps[j] for j in near), min(gaps[j] for j in far))]
            else:
                chosen = []
                for j in near:
                    beyond = [gaps[k] for k in far if gaps[k] > gaps[j]]
                    chosen.append((gaps[j], min(beyond) if beyond else max(gaps[k] for k in far)))
            of_pair += [max(0.0, p - n + margin) for p, n in chosen]
        costs.append(sum(of_pair) / len(of_pair))
    return sum(costs) / 2


@pytest.mark.parametrize("mining", ["semi_hard", "batch_hard"])
@pytest.mark.parametrize("normalise", [True, False])
def test_triplet_is_its_equation(mining, normalise):
    config = triplet.Config(mining=mining, margin=0.7, normalise=normalise)
    got = triplet.build(config, SCENE)(batch())
    wanted = literal_triplet(batch(), mining, 0.7, normalise)
    assert got.item() == pytest.approx(wanted, rel=1e-4)


def test_random_triplets_are_drawn_from_the_right_clips_and_by_the_seed():
    """Clips of a class at one point, and classes at points of known distance: any draw costs the
    same; and on scattered clips the mean over seeds is that over all triplets."""
    corners = torch.eye(6)[[0, 1, 0, 2]]
    b = Batch(
        embeddings={"visual": corners, "audio": corners},
        labels=torch.tensor([0, 1, 0, 2]), clips=torch.arange(4),
    )  # fmt: skip
    objective = triplet.build(triplet.Config(mining="random", margin=2.0), SCENE)
    for seed in range(5):
        cost = objective(replace(b, seed=seed)).item()
        assert cost == pytest.approx(2 - math.sqrt(2), abs=1e-5)
    b = batch(labels=(0, 1, 0, 2, 1))
    every = []
    for left, right in (("visual", "audio"), ("audio", "visual")):
        for i, anchor in enumerate(b.embeddings[left]):
            gaps = [math.sqrt(2 - 2 * cosine(anchor, y)) for y in b.embeddings[right]]
            kinds = [[j for j in range(5) if alike(b, i, j) is want] for want in (True, False)]
            pairs = list(product(*[[gaps[j] for j in kind] for kind in kinds]))
            every.append(sum(max(0, p - n + 2.0) for p, n in pairs) / len(pairs))
    costs = [objective(replace(b, seed=seed)).item() for seed in range(600)]
    assert sum(costs) / 600 == pytest.approx(sum(every) / 10, abs=0.02)
    assert len(set(costs)) > 10


@pytest.mark.parametrize("mining", triplet.MININGS)
def test_a_class_of_one_clip_in_one_modality_costs_nothing_and_does_not_hang(mining):
    one = ObjectiveContext(outputs={"audio": 6}, inputs={"audio": 6}, classes=("a", "b"), clips=3)
    objective = triplet.build(triplet.Config(mining=mining), one)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lonely = Batch(embeddings={"audio": x}, labels=torch.tensor([0, 1, 2]), clips=torch.arange(3))
    assert objective(lonely).item() == 0
    pair = replace(lonely, labels=torch.tensor([0, 0, 1]))
    objective(pair).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("mining", triplet.MININGS)
def test_clips_of_one_class_have_nothing_to_be_told_from(mining):
    objective = triplet.build(triplet.Config(mining=mining), SCENE)
    assert objective(batch(labels=(1, 1, 1))).item() == 0


# ── CCL ──────────────────────────────────────────────────────────────────────────────────────────


def literal_nce(b, one, two, t):
    total = 0.0
    for left, right in ((one, two), (two, one)):
        for i, x in enumerate(left):
            tops = [math.exp((1 - 0.5 * float((x / x.norm() - y / y.norm()).square().sum())) / t)
                    for y in right]  # fmt: skip
            p = [top / sum(tops) for top in tops]
            near = [j for j in range(len(p)) if alike(b, i, j)]
            far = [j for j in range(len(p)) if not alike(b, i, j)]
            total -= sum(math.log(p[j]) for j in near) / len(near) / len(left)
            if far:
                total -= sum(math.log(1 - p[j]) for j in far) / len(far) / len(left)
    return total


def test_ccl_is_its_equations():
    b = batch(labels=(0, 1, 0, 2, 1))
    objective = ccl.build(ccl.Config(contrast=0.7, divergence=0.3), SCENE)
    with torch.no_grad():
        v, a = b.embeddings.values()
        unit = torch.stack(
            [torch.cat([y / y.norm(), x / x.norm()]) for x, y in zip(v, a, strict=True)]
        )
        av = a + unit @ objective.residual.weight.T + objective.residual.bias
        p, q = (layer(x).softmax(1) for layer, x in
                ((objective.of_visual, v), (objective.of_both, av)))  # fmt: skip
        wanted = {
            "class_visual": -sum(math.log(row[c]) for row, c in zip(p, b.labels, strict=True)) / 5,
            "class_both": -sum(math.log(row[c]) for row, c in zip(q, b.labels, strict=True)) / 5,
            "nce_visual_both": 0.7 * literal_nce(b, v, av, 0.5),
            "nce_visual_audio": 0.7 * literal_nce(b, v, a, 0.5),
            "nce_both_audio": 0.7 * literal_nce(b, av, a, 0.5),
            "divergence": 0.3 * 0.5 * float(
                ((p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)).mean()
            ),
        }  # fmt: skip
        got = {name: float(x) for name, x in objective.terms(b).items()}
    assert got == pytest.approx(wanted, rel=1e-4)


def test_ccl_as_printed_leaves_out_what_only_the_code_has():
    printed = ccl.build(ccl.Config(compose_nce=False, divergence=0.0), SCENE)
    assert set(printed.terms(batch(labels=(0, 1, 2)))) == {
        "class_visual", "class_both", "nce_visual_both", "nce_visual_audio",
    }  # fmt: skip


def test_ccl_of_two_clips_of_two_classes_that_agree():
    """p = e^2 / (e^2 + 1) for the partner: -2 log p from each side, over both sides."""
    axes = torch.eye(2)
    same = torch.eye(2, dtype=torch.bool)
    p = math.exp(2) / (math.exp(2) + 1)
    wanted = 2 * -(math.log(p) + math.log(p))
    assert ccl.symmetric_nce(axes, axes, same, 0.5).item() == pytest.approx(wanted, rel=1e-5)


# ── distillation ─────────────────────────────────────────────────────────────────────────────────


def test_distillation_is_its_equations():
    b = batch(labels=(0, 1, 0, 2, 1))
    config = distillation.Config(lambda_kl=0.4, teacher_weight=2.0)
    objective = distillation.build(config, SCENE)
    with torch.no_grad():
        teacher, student = b.embeddings.values()
        soft, guess = (objective.classifier(x).softmax(1) for x in (teacher, student))
        wanted = {
            "l1": sum(abs(float(s - t)) for s, t in
                      zip(student.flatten(), teacher.flatten(), strict=True)) / student.numel(),
            "soft": -0.4 * sum(float(p * math.log(q)) for p, q in
                               zip(soft.flatten(), guess.flatten(), strict=True)) / 5,
            "teacher": -2.0 * sum(math.log(row[c]) for row, c in
                                  zip(soft, b.labels, strict=True)) / 5,
        }  # fmt: skip
        got = {name: float(x) for name, x in objective.terms(b).items()}
    assert got == pytest.approx(wanted, rel=1e-5)


def test_the_student_never_teaches_the_teacher():
    b = batch(labels=(0, 1, 0, 2, 1))
    teacher = b.embeddings["visual"].requires_grad_()
    b.embeddings["audio"].requires_grad_()
    objective = distillation.build(distillation.Config(teacher_weight=0.0), SCENE)
    objective(b).backward()
    assert teacher.grad is None
    assert b.embeddings["audio"].grad.abs().sum() > 0


def test_distillation_names_outputs_that_are_there():
    with pytest.raises(ConfigError, match="no output 'av'; there are audio, visual"):
        distillation.build(distillation.Config(student="av"), SCENE)
    with pytest.raises(ConfigError, match="name two"):
        distillation.Config(student="visual")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nt_xent.Config(temperature=0.0), "temperature"),
        (lambda: nt_xent.Config(reduction="max"), "reduction"),
        (lambda: supcon.Config(temperature=-1.0), "temperature"),
        (lambda: triplet.Config(margin=0.0), "margin"),
        (lambda: triplet.Config(mining="hard"), "mining"),
        (lambda: ccl.Config(temperature=0.0), "temperature"),
        (lambda: ccl.Config(contrast=-1.0), "contrast"),
        (lambda: distillation.Config(lambda_kl=-1.0), "lambda_kl"),
    ],
)
def test_settings_out_of_bounds_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
