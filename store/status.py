"""The outcome of a clip: one byte on disk, and the name people read."""

from enum import IntEnum
from typing import Any

from store.errors import InputError, choices


class Status(IntEnum):
    """Rows, no rows, or the reason of a failure. Values are on disk: never renumber."""

    OK = 0
    PARTIAL = 1  # the readable part was kept
    ABSENT = 2  # the clip has no such stream: data, not a failure
    UNREADABLE = 16  # cannot be opened, or holds no media
    DECODE_ERROR = 17
    DEADLINE = 18
    CRASH = 19  # the decoder process died
    OUT_OF_MEMORY = 20
    REFUSED = 21  # over a cap, container not allowed, unsafe path
    MISSING = 22  # no such file
    EMPTY = 23  # opened, but nothing in it
    NOT_FINITE = 24  # the encoder gave NaN, infinity or more than float16 holds
    PENDING = 255  # no unit holds the clip yet; never stored

    @property
    def kind(self) -> str:
        """The name in reports and options: `decode-error`."""
        return self.name.lower().replace("_", "-")

    @property
    def failed(self) -> bool:
        """Whether the clip could not be embedded: nothing else gave it no rows."""
        return Status.UNREADABLE <= self < Status.PENDING

    @property
    def has_rows(self) -> bool:
        """Whether clips with this status have rows."""
        return self in (Status.OK, Status.PARTIAL)

    @classmethod
    def from_kind(cls, kind: str) -> "Status":
        """The inverse of `kind`.

        Raises:
            InputError: no status is called that.
        """
        by_kind = {status.kind: status for status in cls}
        if kind not in by_kind:
            raise InputError(f"no status {kind!r}; there are {choices(kind, by_kind)}")
        return by_kind[kind]


STORED = tuple(status for status in Status if status is not Status.PENDING)


def cf_attributes() -> dict[str, Any]:
    """The CF conventions' description of the codes, for readers that know nothing of us."""
    return {
        "flag_values": [int(status) for status in STORED],
        "flag_meanings": " ".join(status.kind for status in STORED),
    }
