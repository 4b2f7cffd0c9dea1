"""AVID, CMA, SSCL, XDC and prototypes: equations, what they remember, and when it changes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from learn.training.objectives import (  # fmt: skip
    Batch,
    EpochStart,
    ObjectiveContext,
    TrainingEmbeddings,
    cma,
    memory_bank,
    prototypes,
    sscl,
    xdc,
)
from learn.training.objectives._bank import Bank
from learn.training.objectives._clusters import cluster
from learn.training.objectives._pairs import others
from store.errors import ConfigError

BOTH = {"visual": 6, "audio": 6}
CLIPS = 9


def context(**changes):
    return ObjectiveContext(
        outputs=BOTH, inputs=BOTH, classes=("a", "b", "c"), clips=CLIPS, **changes
    )


def batch(clips=(4, 0, 7, 2), seed=0):
    visual, audio = torch.randn(2, len(clips), 6, generator=torch.Generator().manual_seed(seed))
    return Batch(
        embeddings={"visual": visual, "audio": audio},
        labels=torch.full((len(clips),), -1), clips=torch.tensor(clips), seed=7,
    )  # fmt: skip


def moment(rows, *, round=0, epoch=0, labels=None):
    labels = torch.full((CLIPS,), -1) if labels is None else labels
    return EpochStart(
        round=round, epoch=epoch, seed=5,
        survey=lambda: TrainingEmbeddings(embeddings=rows, means=rows, labels=labels),
    )  # fmt: skip


def cosine(x, y):
    return float(x @ y / x.norm() / y.norm())


# ── negatives ────────────────────────────────────────────────────────────────────────────────────


def test_negatives_are_all_other_clips_equally_often_and_a_clip_keeps_its_own():
    b = batch()
    drawn = others(b, 20_000, CLIPS)
    for clip, row in zip(b.clips.tolist(), drawn, strict=True):
        count = torch.bincount(row, minlength=CLIPS)
        assert count[clip] == 0
        expected = 20_000 / (CLIPS - 1)
        assert (count[torch.arange(CLIPS) != clip] - expected).abs().max() < 5 * expected**0.5
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(
        others(replace(b, **rows_of(b, order)), 5, CLIPS), others(b, 5, CLIPS)[order]
    )
    elsewhere = others(replace(b, clips=torch.full((4,), -1)), 20_000, CLIPS)
    assert (torch.bincount(elsewhere.flatten(), minlength=CLIPS) > 0).all()


def test_negatives_leave_out_those_that_are_spared_and_are_all_others_equally_often():
    b = replace(batch(), clips=torch.tensor([4, 0, 7, -1]))
    spared = torch.tensor([[8, 1, 3], [1, 0, 1], [8, 6, 5], [1, 2, 3]])
    drawn = others(b, 20_000, CLIPS, spared)
    for clip, row, never in zip(b.clips.tolist(), drawn, spared.tolist(), strict=True):
        gone = {clip, *never} if clip >= 0 else set()
        count = torch.bincount(row, minlength=CLIPS)
        expected = 20_000 / (CLIPS - len(gone))
        for i, times in enumerate(count.tolist()):
            assert times == 0 if i in gone else abs(times - expected) < 5 * expected**0.5


@pytest.mark.parametrize("clips", [2, 3, 9])
def test_where_all_others_are_partners_some_are_negatives_still(clips):
    facts = replace(context(), clips=clips)
    objective = cma.build(cma.Config(positives=50, negatives=4), facts)
    objective.prepare(moment({m: objective.bank.of(m) for m in BOTH}, labels=torch.arange(clips)))
    assert objective(batch(clips=(1, 0))).isfinite()


def rows_of(b, order):
    return {
        "embeddings": {m: x[order] for m, x in b.embeddings.items()},
        "labels": b.labels[order], "clips": b.clips[order],
    }  # fmt: skip


# ── AVID ─────────────────────────────────────────────────────────────────────────────────────────


def literal_avid(b, bank, drawn, config, z):
    t, total = config.temperature, 0.0
    whole = config.cross + config.within
    for kind, weight in (("cross", config.cross), ("within", config.within)):
        for anchor, other in (("visual", "audio"), ("audio", "visual")):
            target = bank.of(other if kind == "cross" else anchor)
            for i, clip in enumerate(b.clips.tolist()):
                x = b.embeddings[anchor][i]
                top = math.exp(cosine(x, target[clip]) / t)
                rest = [math.exp(cosine(x, target[k]) / t) for k in drawn[i].tolist()]
                if config.nce == "softmax":
                    cost = -math.log(top / (top + sum(rest)))
                else:
                    noise = len(rest) * z
                    cost = -math.log(top / (top + noise))
                    cost -= sum(math.log(noise / (e + noise)) for e in rest)
                total += weight / whole * cost / 2 / len(b)
    return total


@pytest.mark.parametrize("nce", ["softmax", "binary"])
@pytest.mark.parametrize(("cross", "within"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("negatives", [3, 50])
def test_avid_is_its_equation(nce, cross, within, negatives):
    config = memory_bank.Config(
        nce=nce, cross=cross, within=within, negatives=negatives, temperature=0.5
    )
    objective = memory_bank.build(config, context())
    objective.bank.z.fill_(1.7)
    b = batch()
    wanted = literal_avid(b, objective.bank, others(b, negatives, CLIPS), config, 1.7)
    assert objective(b).item() == pytest.approx(wanted, rel=1e-5)


def test_binary_nce_of_a_guess_no_better_than_noise():
    """All similarities 0, Z = 1, K negatives: log(1 + K) + K log(1 + 1 / K)."""
    objective = memory_bank.build(memory_bank.Config(negatives=4), context())
    for name in BOTH:
        objective.bank.of(name).zero_()
    objective.bank.z.fill_(1.0)
    wanted = math.log(5) + 4 * math.log(1.25)
    assert objective(batch()).item() == pytest.approx(wanted, rel=1e-6)


def test_the_constant_is_that_of_the_first_step_for_ever():
    objective = memory_bank.build(memory_bank.Config(negatives=6, temperature=0.5), context())
    b = batch()
    drawn, bank = others(b, 6, CLIPS), objective.bank.of("audio").clone()
    scores = [
        math.exp(cosine(x, bank[k]) / 0.5)
        for x, row in zip(b.embeddings["visual"], drawn, strict=True) for k in row.tolist()
    ]  # fmt: skip
    before = objective(b)
    assert objective.bank.z.isnan()
    objective.after_step(b)
    assert objective.bank.z.item() == pytest.approx(sum(scores) / len(scores), rel=1e-5)
    first = objective.bank.z.clone()
    objective.after_step(batch(seed=3))
    assert torch.equal(objective.bank.z, first)
    assert before.isfinite()


def test_memory_moves_for_the_clips_of_the_batch_only_and_stays_of_length_one():
    objective = memory_bank.build(memory_bank.Config(momentum=0.25), context())
    old, b = objective.bank.of("audio").clone(), batch()
    objective.after_step(b)
    new = objective.bank.of("audio")
    for clip in range(CLIPS):
        if clip not in b.clips:
            assert torch.equal(new[clip], old[clip])
            continue
        x = b.embeddings["audio"][b.clips.tolist().index(clip)]
        wanted = 0.25 * old[clip] + 0.75 * x / x.norm()
        torch.testing.assert_close(new[clip], wanted / wanted.norm())


def test_momenta_are_learnt_through_the_memory_that_a_step_will_leave():
    config = memory_bank.Config(
        learn_momentum=True, momentum=0.25, negatives=3, temperature=0.5, nce="softmax"
    )
    objective, b = memory_bank.build(config, context()), batch()
    assert objective.prepare(moment({})) == pytest.approx(
        {"momentum_visual": 0.25, "momentum_audio": 0.25}
    )
    old = {m: objective.bank.of(m).clone() for m in BOTH}
    drawn, total = others(b, 3, CLIPS), 0.0
    for anchor, target in (("visual", "audio"), ("audio", "visual")):
        for i, clip in enumerate(b.clips.tolist()):
            x, z = b.embeddings[anchor][i], b.embeddings[target][i]
            top = math.exp(cosine(x, 0.25 * old[target][clip] + 0.75 * z / z.norm()) / 0.5)
            rest = sum(math.exp(cosine(x, old[target][k]) / 0.5) for k in drawn[i].tolist())
            total -= math.log(top / (top + rest)) / 2 / len(b)
    cost = objective(b)
    assert cost.item() == pytest.approx(total, rel=1e-5)
    cost.backward()
    assert all(x.grad.abs() > 0 for x in objective.momenta.values())
    with torch.no_grad():
        objective.momenta["audio"].copy_(torch.tensor(0.9).logit())
    objective.after_step(b)
    z = b.embeddings["audio"][0]
    wanted = 0.9 * old["audio"][4] + 0.1 * z / z.norm()
    torch.testing.assert_close(objective.bank.of("audio")[4], wanted / wanted.norm())
    assert not list(memory_bank.build(memory_bank.Config(), context()).parameters())


def test_a_later_stage_takes_over_the_memory():
    one = context()
    first = memory_bank.build(memory_bank.Config(), one)
    first.after_step(batch())
    for later in (sscl.build(sscl.Config(), one), cma.build(cma.Config(), one)):
        assert later.bank is first.bank
    assert isinstance(one.states["bank"], Bank)


@pytest.mark.parametrize("anchors", ["visual", "audio"])
def test_one_modality_alone_can_be_the_anchor(anchors):
    config = memory_bank.Config(cross=0.0, within=1.0, anchors=anchors)
    b = batch()
    for x in b.embeddings.values():
        x.requires_grad_()
    memory_bank.build(config, context())(b).backward()
    assert {m: x.grad is not None for m, x in b.embeddings.items()} == {
        m: m == anchors for m in BOTH
    }


# ── CMA ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("agreement", cma.AGREEMENTS)
def test_partners_agree_most_and_are_never_the_clip_itself(agreement, monkeypatch):
    monkeypatch.setattr(cma, "BLOCK", 4)
    visual, audio = F.normalize(torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(1)),
                                dim=-1)  # fmt: skip
    visual[3] = visual[7] = visual[11]  # the nearest clip need not be the clip itself
    mined = cma.mine(visual, audio, 4, agreement)
    how = {"consensus": min, "union": max, "visual": lambda v, a: v, "audio": lambda v, a: a}
    for i in range(30):
        scores = [
            how[agreement](float(visual[i] @ visual[j]), float(audio[i] @ audio[j]))
            if j != i else -2.0 for j in range(30)
        ]  # fmt: skip
        best = sorted(scores, reverse=True)[:4]
        assert i not in mined[i]
        assert [scores[j] for j in mined[i].tolist()] == pytest.approx(best, abs=1e-6)


def test_cma_is_its_equation():
    config = cma.Config(positives=3, negatives=5, within_negatives=2, temperature=0.5, partners=0.6)
    objective = cma.build(config, context())
    objective.bank.z.fill_(1.3)
    rows = {m: objective.bank.of(m) for m in BOTH}
    metrics = objective.prepare(moment(rows, labels=torch.arange(CLIPS) % 3))
    mined = cma.mine(rows["visual"], rows["audio"], 3, "consensus")
    assert torch.equal(objective.partners, mined)
    same = (torch.arange(CLIPS)[:, None] % 3 == mined % 3).float().mean()
    assert metrics["partners_of_the_class"] == pytest.approx(float(same))
    b, total = batch(), 0.0
    drawn = others(b, 5, CLIPS, mined[b.clips])
    for anchor, target in (("visual", "audio"), ("audio", "visual")):
        for i, clip in enumerate(b.clips.tolist()):
            x = b.embeddings[anchor][i]

            def nce(x, tops, rest):
                tops = [math.exp(cosine(x, y) / 0.5) for y in tops]
                rest = [math.exp(cosine(x, y) / 0.5) for y in rest]
                noise = len(rest) * 1.3
                cost = -sum(math.log(e / (e + noise)) for e in tops) / len(tops)
                return cost - sum(math.log(noise / (e + noise)) for e in rest)

            total += nce(x, [rows[target][clip]], rows[target][drawn[i]]) / 1.6 / 2 / len(b)
            mine, near = rows[anchor][mined[clip]], rows[anchor][drawn[i, :2]]
            total += 0.6 * nce(x, mine, near) / 1.6 / 2 / len(b)
    assert objective(b).item() == pytest.approx(total, rel=1e-5)


def test_partners_are_mined_every_so_many_epochs():
    objective = cma.build(cma.Config(positives=2, every=3), context())
    rows = {m: objective.bank.of(m) for m in BOTH}
    assert [bool(objective.prepare(moment(rows, epoch=e))) for e in range(4)] == [
        True, False, False, True,
    ]  # fmt: skip


def test_a_clip_of_another_split_is_its_own_partner():
    config = cma.Config(positives=3, negatives=5, temperature=0.5, instance=0.0)
    objective = cma.build(config, context())
    objective.bank.z.fill_(1.3)
    b, total = replace(batch(), clips=torch.full((4,), -1)), 0.0
    drawn = others(b, 5, CLIPS)
    for name in BOTH:
        for x, row in zip(b.embeddings[name], drawn, strict=True):
            noise = 5 * 1.3
            total -= math.log(math.exp(2) / (math.exp(2) + noise)) / 8
            rest = [math.exp(cosine(x, y) / 0.5) for y in objective.bank.of(name)[row]]
            total -= sum(math.log(noise / (e + noise)) for e in rest) / 8
    assert objective(b).item() == pytest.approx(total, rel=1e-5)


# ── SSCL ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("joint", sscl.JOINTS)
@pytest.mark.parametrize("student", ["audio", "visual"])
def test_sscl_is_its_equation_and_the_teacher_learns_where_it_says(joint, student):
    config = sscl.Config(student=student, joint=joint, negatives=5, temperature=0.5)
    objective = sscl.build(config, context())
    teacher = "visual" if student == "audio" else "audio"
    b, bank = batch(), objective.bank.of(teacher)
    drawn = others(b, 5, CLIPS)

    def nce(anchor, live):
        total = 0.0
        for i, clip in enumerate(b.clips.tolist()):
            x = b.embeddings[anchor][i]
            top = math.exp(cosine(x, b.embeddings[teacher][i] if live else bank[clip]) / 0.5)
            rest = sum(math.exp(cosine(x, bank[k]) / 0.5) for k in drawn[i].tolist())
            total -= math.log(top / (top + rest)) / len(b)
        return total

    wanted = nce(student, joint == "live") + (nce(teacher, False) if joint == "bank+uni" else 0.0)
    for x in b.embeddings.values():
        x.requires_grad_()
    cost = objective(b)
    assert cost.item() == pytest.approx(wanted, rel=1e-5)
    cost.backward()
    assert (b.embeddings[teacher].grad is not None) == (joint != "bank")
    assert b.embeddings[student].grad.abs().sum() > 0


# ── clusters ─────────────────────────────────────────────────────────────────────────────────────


def corners(order):
    """Nine clips near three corners, those of `order`; each row near its own corner only."""
    noise = 0.01 * torch.randn(CLIPS, 6, generator=torch.Generator().manual_seed(2))
    return torch.eye(6)[torch.tensor(order)] + noise


SEEN, HEARD = [0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_clusters_are_those_that_are_plain_to_see_and_follow_from_the_seed():
    class_ids = cluster(corners(SEEN), 3, seed=1)
    assert len(class_ids.unique()) == 3
    assert all(len(class_ids[torch.tensor(SEEN) == c].unique()) == 1 for c in range(3))
    assert torch.equal(class_ids, cluster(corners(SEEN), 3, seed=1))


def test_xdc_names_the_clusters_of_the_other_modality():
    objective = xdc.build(xdc.Config(clusters=3), context())
    rows = {"visual": corners(SEEN), "audio": corners(HEARD)}
    metrics = objective.prepare(moment(rows))
    assert metrics["evenness_visual"] == pytest.approx(1)
    assert metrics["nmi_visual_audio"] == pytest.approx(0, abs=1e-6)
    b, total = batch(), 0.0
    class_ids = {m: cluster(rows[m], 3, seed=5 + i) for i, m in enumerate(BOTH)}
    with torch.no_grad():
        for name, other in (("visual", "audio"), ("audio", "visual")):
            share = objective.classifiers[name](b.embeddings[name]).softmax(1)
            for row, clip in zip(share, b.clips.tolist(), strict=True):
                total -= math.log(row[class_ids[other][clip]]) / len(b) / 2
    assert objective(b).item() == pytest.approx(total, rel=1e-5)


def test_xdc_clusters_stored_rows_first_and_what_was_learnt_later():
    objective = xdc.build(xdc.Config(clusters=3), context())
    stored = {"visual": corners(SEEN), "audio": corners(SEEN)}
    learnt = {"visual": corners(SEEN), "audio": corners(HEARD)}
    survey = TrainingEmbeddings(embeddings=learnt, means=stored, labels=torch.full((CLIPS,), -1))
    kinds = []
    for round_ in (0, 1):
        now = EpochStart(round=round_, epoch=0, seed=5, survey=lambda: survey)
        kinds.append(objective.prepare(now)["nmi_visual_audio"])
        assert objective.prepare(replace(now, epoch=1)) == {}
    assert kinds == pytest.approx([1, 0], abs=1e-6)


def test_classifiers_start_anew_each_round_by_its_seed():
    objective = xdc.build(xdc.Config(clusters=3), context())
    rows = {"visual": corners(SEEN), "audio": corners(HEARD)}
    objective.prepare(moment(rows))
    first = objective.classifiers["visual"].weight.clone()
    with torch.no_grad():
        objective.classifiers["visual"].weight += 1
    objective.prepare(moment(rows, round=1))
    assert torch.equal(objective.classifiers["visual"].weight, first)  # of the same seed
    objective.prepare(replace(moment(rows, round=1), seed=6))
    assert not torch.equal(objective.classifiers["visual"].weight, first)


def test_prototypes_are_their_equation():
    objective = prototypes.build(prototypes.Config(clusters=3, temperature=0.4), context())
    rows = {"visual": corners(SEEN), "audio": corners(HEARD)}
    objective.prepare(moment(rows))
    class_ids = {m: cluster(rows[m], 3, seed=5 + i) for i, m in enumerate(BOTH)}
    b, total = batch(), 0.0
    for name, other in (("visual", "audio"), ("audio", "visual")):
        means = [F.normalize(rows[other], dim=-1)[class_ids[other] == k].mean(0) for k in range(3)]
        for x, clip in zip(b.embeddings[name], b.clips.tolist(), strict=True):
            tops = [math.exp(cosine(x, c) / 0.4) for c in means]
            total -= math.log(tops[class_ids[other][clip]] / sum(tops)) / len(b) / 2
    assert objective(b).item() == pytest.approx(total, rel=1e-4)


def test_a_clip_of_another_split_belongs_to_the_nearest_cluster():
    objective = prototypes.build(prototypes.Config(clusters=3), context())
    rows = {"visual": corners(SEEN), "audio": corners(HEARD)}
    objective.prepare(moment(rows))
    b = replace(
        batch(clips=tuple(range(CLIPS))),
        embeddings={m: x + 0.001 for m, x in rows.items()},
    )
    elsewhere = replace(b, clips=torch.full((CLIPS,), -1))
    for name in BOTH:
        assert torch.equal(objective.class_ids(elsewhere, name), objective.class_ids(b, name))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: memory_bank.Config(nce="hinge"), "nce"),
        (lambda: memory_bank.Config(cross=0.0), "not both 0"),
        (lambda: memory_bank.Config(anchors="av"), "anchors"),
        (lambda: memory_bank.Config(momentum=1.0), "momentum"),
        (lambda: memory_bank.Config(negatives=0), "negatives"),
        (lambda: cma.Config(agreement="most"), "agreement"),
        (lambda: cma.Config(positives=0), "positives"),
        (lambda: cma.Config(instance=0.0, partners=0.0), "not both 0"),
        (lambda: sscl.Config(student="av"), "student"),
        (lambda: sscl.Config(joint="both"), "joint"),
        (lambda: xdc.Config(clusters=1), "clusters"),
        (lambda: prototypes.Config(every=0), "every"),
        (lambda: prototypes.Config(temperature=0.0), "temperature"),
    ],
)
def test_settings_out_of_bounds_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize("module", [memory_bank, cma, sscl, xdc, prototypes])
def test_one_modality_is_not_enough(module):
    alone = ObjectiveContext(outputs={"audio": 6}, inputs={"audio": 6}, classes=(), clips=9)
    with pytest.raises(ConfigError, match="audio"):
        module.build(module.Config(), alone)
