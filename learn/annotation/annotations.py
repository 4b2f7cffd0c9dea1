"""What was answered about clips, act by act, and how to take acts back.

Every act goes to the file of labels before it holds. Windows share what is known; each takes back
its own acts, and none a clip that was answered anew since.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from learn.annotation.label_file import NOTHING, LabelFile, Labels, name_fault
from store.errors import ConfigError, InputError

FILE = ""  # the window of acts that the file had when it was opened
Cells = Callable[[str], Mapping[str, str]]  # what the manifest says of a clip


class StaleError(InputError):
    """The clip was answered in another window meanwhile."""


@dataclass(frozen=True, slots=True)
class Act:
    """A change of one column of one clip."""

    number: int
    window: str
    clip: str
    column: str
    before: Labels
    after: Labels


class Annotations:
    """The labels of all clips, over an open file; safe to ask from several threads."""

    def __init__(
        self, file: LabelFile, cells: Cells, classes: Sequence[str] = (), count: int = 0
    ) -> None:
        """`classes` are offered before any clip has them; `count` clips can be answered at all."""
        self._file, self._cells = file, cells
        self._lock = Lock()
        self.columns = file.columns
        self.count = count
        self._of: dict[str, Labels] = {}
        self._version: dict[str, int] = {}  # the number of the last act, by clip
        self._acts: list[Act] = []
        self._undone: set[int] = set()
        self._offered = tuple(classes)
        self._names: dict[str, dict[str, None]] = {column: {} for column in self.columns}
        for clip, labels in file.lines:
            before = self._of.get(clip, NOTHING)
            for column in self.columns:
                if _answer(before, column) != _answer(labels, column):
                    self._keep(FILE, clip, column, labels)

    def labels(self, clip: str) -> Labels:
        """What is known of a clip."""
        return self._of.get(clip, NOTHING)

    def version(self, clip: str) -> int:
        """The number of the last act on a clip; 0 before any."""
        return self._version.get(clip, 0)

    @property
    def acts(self) -> int:
        """The number of acts so far."""
        return len(self._acts)

    def answered(self, column: str) -> set[str]:
        """The clips that were answered in a column."""
        with self._lock:
            return {clip for clip, labels in self._of.items() if labels.answered(column)}

    def in_order(self, column: str) -> list[str]:
        """The clips that are answered in a column, in the order in which they were first."""
        found: dict[str, None] = {}
        with self._lock:
            for act in self._acts:
                if act.column == column and act.after.answered(column):
                    found.setdefault(act.clip)
                elif act.column == column:
                    found.pop(act.clip, None)
        return list(found)

    def named(self, column: str) -> dict[str, str]:
        """The class of each clip that has one, in the order in which they were given."""
        with self._lock:
            return {clip: x.of[column] for clip, x in self._of.items() if x.of.get(column)}

    def classes(self, column: str) -> dict[str, int]:
        """Every class of a column, with the number of its clips."""
        counts = Counter(self.named(column).values())
        with self._lock:
            names = dict.fromkeys([*self._offered, *self._names[column]])
        return {name: counts[name] for name in names if name in self._offered or counts[name]}

    def recent(self, column: str, most: int) -> list[str]:
        """The clips answered last, the last first."""
        with self._lock:
            clips = (act.clip for act in reversed(self._acts) if act.column == column)
            answered = (c for c in dict.fromkeys(clips) if self._of[c].answered(column))
            return [clip for clip, _ in zip(answered, range(most), strict=False)]

    def answer(
        self, window: str, clip: str, column: str, name: str, *, none: bool, version: int
    ) -> Labels:
        """Give a clip a class, or none of them; written before it holds.

        Raises:
            ConfigError: no such column, or a name that no class can have.
            StaleError: the clip has another `version`: it was answered elsewhere.
            InputError, OSError: the file could not be written to; nothing changed.
        """
        if column not in self.columns:
            raise ConfigError(f"no column {column!r}")
        if not none and (fault := name_fault(name)) is not None:
            raise ConfigError(fault)
        with self._lock:
            if self.version(clip) != version:
                raise StaleError(f"{clip} was answered in another window meanwhile; look again")
            labels = self.labels(clip).changed(column, "" if none else name, none=none)
            self._write(window, clip, column, labels)
            return labels

    def undo(self, window: str) -> Act | None:
        """Take back the window's last act, or else the last that the file had; None: there is none.

        Raises:
            StaleError: its clip was answered in another window since.
            InputError, OSError: the file could not be written to; nothing changed.
        """
        with self._lock:
            mine = [a for a in self._acts if a.number not in self._undone]
            act = next((a for a in reversed(mine) if a.window == window), None)
            if act is None:
                act = next((a for a in reversed(mine) if a.window == FILE), None)
            if act is None:
                return None
            now = self.labels(act.clip)
            if _answer(now, act.column) != _answer(act.after, act.column):
                self._undone.add(act.number)
                raise StaleError(f"{act.clip} was answered in another window since; it stays")
            name, none = _answer(act.before, act.column)
            labels = now.changed(act.column, name, none=none)
            self._write(window, act.clip, act.column, labels)
            self._undone |= {act.number, self._acts[-1].number}
            return act

    def _write(self, window: str, clip: str, column: str, labels: Labels) -> None:
        self._file.append(self._cells(clip), labels)
        self._keep(window, clip, column, labels)

    def _keep(self, window: str, clip: str, column: str, labels: Labels) -> None:
        number = len(self._acts) + 1
        before = self._of.get(clip, NOTHING)
        self._acts.append(Act(number, window, clip, column, before, labels))
        self._version[clip] = number
        self._of.pop(clip, None)  # so that clips stand in the order of their last answers
        self._of[clip] = labels
        if name := labels.of.get(column):
            self._names[column].setdefault(name)


def _answer(labels: Labels, column: str) -> tuple[str, bool]:
    """The label of a column, and whether it has none of the classes."""
    return labels.of.get(column, ""), column in labels.none_of
