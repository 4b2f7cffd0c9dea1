"""NT-Xent, supervised contrast, triplets, CCL and distillation, each against its equation."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from learn.training.objectives import (
    Batch,
    EpochStart,
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


def with_image(b):
    return replace(
        b,
        hidden={"visual.image": torch.randn(len(b), 6, generator=torch.Generator().manual_seed(8))},
    )


def built_ccl(**settings):
    torch.manual_seed(3)
    return ccl.build(ccl.Config(**settings), replace(SCENE, hidden={"visual.image": 6}))


def literal_ccl(objective, b, name, t):
    """A teacher, its composition with sight, and their costs, one after another."""
    v, teacher = b.embeddings["visual"], {**b.embeddings, **b.hidden}[ccl.SHOWN[name]]
    residual, head = {
        "audio": ("residual", "of_both"), "image": ("image_residual", "of_image"),
    }[name]  # fmt: skip
    residual, head = getattr(objective, residual), getattr(objective, head)
    pairs = zip(v, teacher, strict=True)
    unit = torch.stack([torch.cat([y / y.norm(), x / x.norm()]) for x, y in pairs])
    both = teacher + unit @ residual.weight.T + residual.bias
    p, q = objective.of_visual(v).softmax(1), head(both).softmax(1)
    return {
        "class": -sum(math.log(row[c]) for row, c in zip(q, b.labels, strict=True)) / len(b),
        "direct": literal_nce(b, v, teacher, t),
        "composed": literal_nce(b, v, both, t),
        "between": literal_nce(b, both, teacher, t),
        "gap": 0.5 * float(((p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)).mean()),
    }


@pytest.mark.parametrize("teachers", ["audio", "image", "both"])
@torch.no_grad()
def test_ccl_is_its_equations(teachers):
    b = with_image(batch(labels=(0, 1, 0, 2, 1)))
    settings = {"contrast": 0.7, "divergence": 0.3, "direct": 0.2, "teacher_weight": 0.6}
    objective = built_ccl(teachers=teachers, **settings)
    names = ("audio", "image") if teachers == "both" else (teachers,)
    p = objective.of_visual(b.embeddings["visual"]).softmax(1)
    wanted = {
        "class_visual": -sum(math.log(row[c]) for row, c in zip(p, b.labels, strict=True)) / 5
    }
    for name in names:
        cost = literal_ccl(objective, b, name, {"audio": 0.5, "image": 0.1}[name])
        share = 1 / len(names)
        wanted |= {
            f"nce_visual_{name}": share * 0.7 * 2 * 0.2 * cost["direct"],
            f"nce_visual_both_{name}": share * 0.7 * 2 * 0.8 * cost["composed"],
            f"divergence_{name}": share * 0.3 * cost["gap"],
            f"class_both_{name}": cost["class"],
            f"nce_both_{name}": 0.7 * (cost["composed"] + cost["between"]),
            f"divergence_both_{name}": 0.3 * cost["gap"],
        }
        of_teacher = objective.of_teachers[name](
            {**b.embeddings, **b.hidden}[ccl.SHOWN[name]]
        ).softmax(1)
        own = -sum(math.log(row[c]) for row, c in zip(of_teacher, b.labels, strict=True)) / 5
        wanted[f"class_{name}"] = 0.6 * own
    got = {name: float(x) for name, x in objective.terms(b).items()}
    assert got == pytest.approx(wanted, rel=1e-4)


def test_ccl_as_printed_leaves_out_what_only_the_code_has():
    printed = ccl.build(
        ccl.Config(compose_nce=False, divergence=0.0, contrast=0.5, teacher_weight=0.0), SCENE
    )
    assert set(printed.terms(batch(labels=(0, 1, 2)))) == {
        "class_visual", "class_both_audio", "nce_visual_audio", "nce_visual_both_audio",
        "nce_both_audio",
    }  # fmt: skip


def test_ccl_gives_the_student_its_cost_and_compositions_theirs():
    """As the published code does by optimisers of their own: a composition's cost never reaches the
    student, the student's reaches compositions, and nothing reaches teachers."""
    objective, labels = built_ccl(teachers="both", teacher_weight=0.0), (0, 1, 0, 2, 1)

    def gradients(wanted):
        b = with_image(batch(labels=labels))
        every = {**b.embeddings, **b.hidden}
        for x in every.values():
            x.requires_grad_()
        objective.zero_grad()
        terms = objective.terms(b)
        torch.stack([x for name, x in terms.items() if wanted(name)]).sum().backward()
        assert all(every[name].grad is None for name in ("audio", "visual.image"))
        sight = b.embeddings["visual"].grad
        return sight, {k: p.grad for k, p in objective.named_parameters()}

    of_compositions = ("class_both", "nce_both", "divergence_both")
    sight, _ = gradients(lambda name: name.startswith(of_compositions))
    assert sight is None
    sight, layers = gradients(lambda name: not name.startswith(of_compositions))
    assert sight.abs().sum() > 0
    assert layers["residual.weight"].abs().sum() > 0


def test_ccl_without_its_teacher_says_where_one_is():
    with pytest.raises(ConfigError, match=r"no visual.image \(the network `teachers` has them\)"):
        ccl.build(ccl.Config(teachers="both"), SCENE)
    with pytest.raises(ConfigError, match="not both 0"):
        ccl.Config(student=0.0, teacher_weight=0.0)


def test_ccl_of_two_clips_of_two_classes_that_agree():
    """p = e^2 / (e^2 + 1) for the partner: -2 log p from each side, over both sides."""
    axes = torch.eye(2)
    same = torch.eye(2, dtype=torch.bool)
    p = math.exp(2) / (math.exp(2) + 1)
    wanted = 2 * -(math.log(p) + math.log(p))
    assert ccl.symmetric_nce(axes, axes, same, 0.5).item() == pytest.approx(wanted, rel=1e-5)


# ── distillation ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("l1", ["sum", "mean"])
@pytest.mark.parametrize("shared", [False, True])
def test_distillation_is_its_equations(l1, shared):
    b = batch(labels=(0, 1, 0, 2, 1))
    config = distillation.Config(
        lambda_kl=0.4, teacher_weight=2.0, l1=l1, shared=shared, imitate=0.5
    )
    objective = distillation.build(config, SCENE)
    with torch.no_grad():
        teacher, student = b.embeddings.values()
        of_teacher = objective.classifier if shared else objective.teacher
        soft, guess = of_teacher(teacher).softmax(1), objective.classifier(student).softmax(1)
        assert shared or not torch.equal(of_teacher.weight, objective.classifier.weight)
        wanted = {
            "l1": 0.5 * sum(abs(float(s - t)) for s, t in
                      zip(student.flatten(), teacher.flatten(), strict=True))
            / (5 if l1 == "sum" else student.numel()),
            "soft": -0.5 * 0.4 * sum(float(p * math.log(q)) for p, q in
                               zip(soft.flatten(), guess.flatten(), strict=True)) / 5,
            "teacher": -2.0 * sum(math.log(row[c]) for row, c in
                                  zip(soft, b.labels, strict=True)) / 5,
        }  # fmt: skip
        got = {name: float(x) for name, x in objective.terms(b).items()}
    assert got == pytest.approx(wanted, rel=1e-5)


def test_the_students_stage_has_the_classifier_that_its_teacher_learnt_and_leaves_it():
    scene = replace(SCENE, states={})
    first = distillation.build(distillation.Config(imitate=0.0), scene)
    second = distillation.build(distillation.Config(teacher_weight=0.0), scene)
    b = batch(labels=(0, 1, 0, 2, 1))
    assert set(first.terms(b)) == {"teacher"}
    first.after_step(b)
    with torch.no_grad():
        second.prepare(EpochStart(round=0, epoch=0, seed=0, survey=lambda: None))
    assert torch.equal(second.teacher.weight, first.teacher.weight)
    assert {name for name, _ in second.named_parameters()} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    wanted = first.teacher(b.embeddings["visual"])
    assert torch.equal(second.classify(b.embeddings)["visual"], wanted)
    second(b).backward()
    assert second.classifier.weight.grad.abs().sum() > 0


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
        (lambda: distillation.Config(imitate=0.0, teacher_weight=0.0), "not both 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
