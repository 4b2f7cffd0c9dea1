"""What reading a pickle may cost: bytes made, opcodes run, containers in containers."""

# What a pickle may make: an interpreter with numpy holds some 100 MB, so a small file may make as
# much again twice. Beyond that, ten bytes for one of the file: arrays are one to one (two while
# they are stacked), lists of floats four, names of twenty letters eight. The cap is twice the
# largest file that is read.
FLOOR_BYTES = 256 << 20
SWELL = 10
CAP_BYTES = 8 << 30
MAX_OPCODES = 50_000_000  # some 20 s; a file with more holds lists where arrays belong
MAX_DEPTH = 100  # of containers in containers; files of features have six
MAX_AXES = 32
MAX_KEY_BITS = 64  # of a whole number as a key: larger ones can be made to collide at will


class Fault(Exception):  # noqa: N818 (never leaves `store.safe_pickle`)
    """Something a pickle asked for and does not get."""


class Budget:
    """The bytes and opcodes that a file of this size may cost."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.all_bytes = min(CAP_BYTES, FLOOR_BYTES + SWELL * size_bytes)
        self.left_bytes = self.all_bytes
        self.left_opcodes = MAX_OPCODES

    def take(self, count: int) -> None:
        """Pay for bytes that are about to be made."""
        self.left_bytes -= count
        if self.left_bytes < 0:
            raise Fault(f"more than {self.all_bytes} bytes in a file of {self.size_bytes}")
        if self.left_opcodes < 0:
            raise Fault(f"a program of more than {MAX_OPCODES} steps")
