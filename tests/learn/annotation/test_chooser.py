"""What is proposed is what `learn predict` answers, of clips that have no answer yet."""

import csv
import math

import learn
from learn.annotation.annotate import opened


def label(session, truth, count, column="label"):
    clips = [clip for i, clip in enumerate(sorted(truth)) if i % 3 == 0][:count]
    for clip in clips:
        version = session.annotations.version(clip)
        session.annotations.answer("w", clip, column, truth[clip], none=False, version=version)
    return clips


def test_proposals_are_the_answers_of_learn_predict(settings, truth, tmp_path, small):
    with opened(settings, lambda media: [None] * len(media)) as labelling:
        session = labelling.session
        label(session, truth, 30)
        fit = session.chooser.fit("label")
        assert fit.calibrated
        assert len(fit.proposals) >= 24
        learn.predict(
            small / "store", support=settings.output, output=tmp_path / "answers.csv", top=5,
            group="none",
        )  # fmt: skip
        with (tmp_path / "answers.csv").open() as file:
            answers = {row["clip_id"]: row for row in csv.DictReader(file)}
        for clip, proposals in fit.proposals.items():
            for k, (name, confidence) in enumerate(proposals[:5], start=1):
                assert name == answers[clip][f"label_{k}"]
                assert math.isclose(
                    confidence, float(answers[clip][f"label_{k}_confidence"]), abs_tol=6e-5
                )
            assert math.isclose(
                fit.novelty[clip], float(answers[clip]["label_novelty"]), abs_tol=6e-5
            )
        assert not set(fit.queue) & session.annotations.answered("label")
        (point,) = [p for p in session.chooser.curve("label") if p.clips == 30]
        assert point.checks <= 30 // 8


def test_before_two_classes_there_are_clips_and_no_proposals(session, truth):
    fit = session.chooser.fit("label")
    assert len(set(fit.queue)) == 24
    assert fit.proposals == {}
    clip = fit.queue[0]
    session.annotations.answer("w", clip, "label", "one", none=False, version=0)
    fit = session.chooser.fit("label")
    assert clip not in fit.queue
    assert fit.proposals == {}


def test_when_all_is_answered_nothing_comes(session, truth):
    for clip in session._clips:
        session.annotations.answer("w", clip, "label", truth[clip], none=False, version=0)
    assert session.chooser.fit("label").queue == ()
    assert session.state("w", "label")["clip"] is None


def test_the_curve_is_made_again_when_labelling_goes_on(settings, truth):
    with opened(settings, lambda media: [None] * len(media)) as labelling:
        label(labelling.session, truth, 40)
    with opened(settings, lambda media: [None] * len(media)) as labelling:
        chooser = labelling.session.chooser
        counts = chooser._counts("label")
        assert len(counts) == 8
        assert max(counts) < 40
        with chooser._fitting:
            chooser._look_back("label", 20)
        assert 20 in [point.clips for point in chooser.curve("label")]
