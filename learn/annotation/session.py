"""What each window of the page shows: its clip, what is proposed, and what comes next."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from learn.annotation.annotations import Annotations, StaleError
from learn.annotation.chooser import TOP, Chooser, Fit
from learn.annotation.estimate import half_width, is_due
from learn.annotation.media import MediaFiles
from learn.annotation.thumbnails import Thumbnails
from store.errors import ConfigError, InputError

WINDOWS = 50  # that are remembered
GONE_SECONDS = 90.0  # after which a window that says nothing holds no clip
RECENT, UPCOMING, POINTS = 12, 8, 120
FEWEST = 5  # clips that were drawn, for a share of them to be shown


Clock = Callable[[], float]  # seconds that never go back


@dataclass(slots=True)
class Window:
    """One window of the page."""

    clip: str | None = None
    column: str = ""
    heard: float = 0.0
    skipped: dict[str, None] = field(default_factory=dict)
    proposals: list[tuple[str, float]] = field(default_factory=list)  # as they were first shown
    novelty: float = math.nan


class Session:
    """All windows over one set of labels."""

    def __init__(
        self, annotations: Annotations, chooser: Chooser, files: MediaFiles,
        thumbnails: Thumbnails, clips: Sequence[str], *, clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        self.annotations, self.chooser = annotations, chooser
        self.files, self.thumbnails = files, thumbnails
        self._clips = tuple(clips)
        self._known = frozenset(clips)
        self._clock = clock
        self._windows: OrderedDict[str, Window] = OrderedDict()

    def state(self, name: str, column: str) -> dict[str, Any]:
        """What the window shows now, as JSON."""
        window = self._window(name, column)
        if window.clip is None:
            self._show(name, window, self._next(name, window))
        elif not window.proposals:
            self._propose(window)
        return self._described(window)

    def answer(
        self, name: str, column: str, clip: str, version: int, label: str, *, none: bool = False
    ) -> dict[str, Any]:
        """Keep an answer, and go on to the next clip.

        Raises:
            ConfigError, InputError, OSError: nothing was kept; the message says why.
        """
        window = self._window(name, column)
        self._refuse_unknown(clip)
        try:
            self.annotations.answer(name, clip, column, label, none=none, version=version)
        except StaleError:
            self._show(name, window, self._next(name, window))
            raise
        self.chooser.want(column)
        window.skipped.pop(clip, None)
        self._show(name, window, self._next(name, window))
        return self._described(window)

    def skip(self, name: str, column: str, clip: str) -> dict[str, Any]:
        """Go on without an answer; the clip comes again when there are no others."""
        window = self._window(name, column)
        self._refuse_unknown(clip)
        window.skipped.pop(clip, None)
        window.skipped[clip] = None
        self._show(name, window, self._next(name, window))
        return self._described(window)

    def show(self, name: str, column: str, clip: str) -> dict[str, Any]:
        """Go to a clip, answered or not."""
        window = self._window(name, column)
        self._refuse_unknown(clip)
        self._show(name, window, clip)
        return self._described(window)

    def undo(self, name: str, column: str) -> dict[str, Any]:
        """Take back the window's last answer, and show its clip.

        Raises:
            StaleError, InputError, OSError: nothing was taken back; the message says why.
        """
        window = self._window(name, column)
        act = self.annotations.undo(name)
        if act is None:
            raise InputError("there is nothing to take back")
        window.column = act.column
        self.chooser.want(act.column)
        self._show(name, window, act.clip)
        return self._described(window)

    def _window(self, name: str, column: str) -> Window:
        """The window of that name; another column shows another clip."""
        column = column or self.annotations.columns[0]
        if column not in self.annotations.columns:
            raise ConfigError(f"no column {column!r}")
        window = self._windows.setdefault(name, Window(column=column))
        self._windows.move_to_end(name)
        while len(self._windows) > WINDOWS:
            self._windows.popitem(last=False)
        if window.column != column:
            window.column, window.clip = column, None
        window.heard = self._clock()
        return window

    def _next(self, name: str, window: Window) -> str | None:
        """The first clip of the queue that nobody looks at, or any that is left, or a skipped."""
        column = window.column
        elsewhere = self._shown_elsewhere(name)
        answered = self.annotations.answered(column)

        def free(clip: str) -> bool:
            return clip not in answered and clip not in elsewhere

        fit = self.chooser.fit_of(column)
        drawn = self.chooser.drawn if is_due(len(answered)) else ()
        for clips in (drawn, fit.queue, self._clips):
            found = next((c for c in clips if free(c) and c not in window.skipped), None)
            if found is not None:
                return found
        return next((c for c in window.skipped if free(c)), None)

    def _shown_elsewhere(self, name: str) -> set[str]:
        since = self._clock() - GONE_SECONDS
        others = (w for key, w in self._windows.items() if key != name and w.heard >= since)
        return {w.clip for w in others if w.clip is not None}

    def _show(self, name: str, window: Window, clip: str | None) -> None:
        window.clip, window.proposals, window.novelty = clip, [], math.nan
        self._propose(window)

    def _propose(self, window: Window) -> None:
        """Proposals of the last fit. Once shown they stay, or a key would come to mean another."""
        if window.clip is None:
            return
        fit = self.chooser.fit_of(window.column)
        proposals = list(fit.proposals.get(window.clip, ()))
        window.novelty = fit.novelty.get(window.clip, math.nan)
        if proposals:
            proposed = {name for name, _ in proposals}
            others = self.annotations.classes(window.column)
            rest = [(name, math.nan) for name in others if name not in proposed]
            window.proposals = [*proposals, *rest][:TOP]

    def _choices(self, window: Window) -> list[tuple[str, float]]:
        if window.proposals:
            return window.proposals
        return [(name, math.nan) for name in self.annotations.classes(window.column)][:TOP]

    def _described(self, window: Window) -> dict[str, Any]:
        column, fit = window.column, self.chooser.fit_of(window.column)
        answered = self.annotations.answered(column)
        upcoming = [c for c in fit.queue if c not in answered and c != window.clip][:UPCOMING]
        recent = self.annotations.recent(column, RECENT)
        self.thumbnails.want([c for c in (window.clip, *upcoming, *recent) if c])
        return {
            "column": column,
            "columns": list(self.annotations.columns),
            "classes": [[n, k] for n, k in self.annotations.classes(column).items()],
            "answered": len(answered),
            "total": self.annotations.count,
            "acts": self.annotations.acts,
            "clip": self._clip(window) if window.clip is not None else None,
            "upcoming": [self._small(clip, column) for clip in upcoming],
            "recent": [self._small(clip, column) for clip in recent],
            "curve": self._curve(column),
            "half": self._half(column),
            "fit": _fit_facts(fit, self.annotations.acts),
        }

    def _clip(self, window: Window) -> dict[str, Any]:
        clip = window.clip
        assert clip is not None
        media, labels = self.files.find(clip), self.annotations.labels(clip)
        start, end = media.piece if media else (0.0, None)
        return {
            **self._small(clip, window.column),
            "version": self.annotations.version(clip),
            "media": media is not None,
            "type": media.content_type if media else "",
            "start": start,
            "end": end,
            "choices": [[n, None if math.isnan(p) else p] for n, p in self._choices(window)],
            "novelty": None if math.isnan(window.novelty) else window.novelty,
            "labels": dict(labels.of),
        }

    def _small(self, clip: str, column: str) -> dict[str, Any]:
        labels = self.annotations.labels(clip)
        return {
            "id": clip,
            "label": labels.of.get(column, ""),
            "none": column in labels.none_of,
            "picture": self.thumbnails.ready(clip),
        }

    def _curve(self, column: str) -> list[list[float | None]]:
        points = self.chooser.curve(column)
        step = -(-len(points) // POINTS) or 1
        kept = [p for i, p in enumerate(points) if (len(points) - 1 - i) % step == 0]
        return [
            [float(p.clips), p.expected, p.checked if p.checks >= FEWEST else None, float(p.checks)]
            for p in kept
        ]

    def _half(self, column: str) -> float | None:
        """Half the width of the interval of the last share of clips that were drawn."""
        points = self.chooser.curve(column)
        if not points or points[-1].checked is None:
            return None
        return half_width(points[-1].checked, points[-1].checks)

    def _refuse_unknown(self, clip: str) -> None:
        if clip not in self._known:
            raise InputError("no such clip")


def _fit_facts(fit: Fit, acts: int) -> dict[str, Any]:
    return {
        "behind": acts - max(fit.acts, 0),
        "made": fit.acts >= 0,
        "seconds": round(fit.seconds, 3),
        "candidates": fit.candidates,
        "calibrated": fit.calibrated,
        "fault": fit.fault,
    }
