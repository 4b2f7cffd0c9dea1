"""What windows show: never the same clip twice at once, and never another class under a key."""

import pytest

from learn.annotation.annotations import StaleError
from store.errors import ConfigError, InputError


def test_windows_show_different_clips_and_go_on(session):
    one, two = (session.state(name, "label")["clip"]["id"] for name in ("one", "two"))
    assert one != two
    told = session.answer("one", "label", one, 0, "x")
    assert told["answered"] == 1
    assert told["clip"]["id"] not in (one, two)
    assert session.state("two", "label")["clip"]["id"] == two


def test_a_clip_that_was_answered_elsewhere_is_not_answered_again(session):
    clip = session.state("one", "label")["clip"]["id"]
    session.show("two", "label", clip)
    session.answer("two", "label", clip, 0, "y")
    with pytest.raises(StaleError):
        session.answer("one", "label", clip, 0, "x")
    assert session.annotations.labels(clip).of == {"label": "y"}
    assert session.state("one", "label")["clip"]["id"] != clip


def test_a_window_that_is_gone_holds_no_clip(session):
    now = [0.0]
    session._clock = lambda: now[0]
    held = session.state("gone", "label")["clip"]["id"]
    now[0] = 1000.0
    assert held not in session._shown_elsewhere("new")


def test_skipped_clips_come_last_and_undo_shows_the_clip_again(session):
    first = session.state("w", "label")["clip"]["id"]
    told = session.skip("w", "label", first)
    second = told["clip"]["id"]
    assert second != first
    session.answer("w", "label", second, 0, "x")
    told = session.undo("w", "label")
    assert told["clip"]["id"] == second
    assert told["clip"]["label"] == ""
    assert told["clip"]["version"] == 2
    assert told["answered"] == 0
    with pytest.raises(InputError, match="nothing to take back"):
        session.undo("w", "label")


def test_proposals_stay_while_a_clip_is_shown(session, truth):
    for clip in sorted(truth)[::4]:
        session.annotations.answer("x", clip, "label", truth[clip], none=False, version=0)
    session.chooser.fit("label")
    before = session.state("w", "label")["clip"]
    assert before["choices"][0][1] is not None
    others = [c for c in session._clips if c not in session.annotations.answered("label")]
    for clip in others[:20]:
        if clip != before["id"]:
            session.annotations.answer("x", clip, "label", truth[clip], none=False, version=0)
    session.chooser.fit("label")
    after = session.state("w", "label")["clip"]
    assert (after["id"], after["choices"]) == (before["id"], before["choices"])


def test_one_clip_in_eight_is_the_next_that_nobody_chooses(session):
    shown = []
    for _ in range(16):
        clip = session.state("w", "label")["clip"]["id"]
        shown.append(clip)
        session.answer("w", "label", clip, 0, "x")
    free = [c for c in session.chooser.drawn if c not in shown[:7]]
    assert shown[7] == free[0]
    free = [c for c in session.chooser.drawn if c not in shown[:15]]
    assert shown[15] == free[0]


def test_what_there_is_not_is_refused(session):
    clip = session.state("w", "label")["clip"]["id"]
    with pytest.raises(ConfigError, match="no column"):
        session.answer("w", "mood", clip, 0, "x")
    with pytest.raises(InputError, match="no such clip"):
        session.answer("w", "label", "../secret.mp4", 0, "x")
    assert session.annotations.acts == 0
