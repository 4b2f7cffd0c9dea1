"""Small pickles that cost much, each a function of how far it is blown up."""

import pickle
import struct


def nested_keys(depth: int = 60) -> bytes:
    """A tuple of a tuple twice, and so on, as the key of a dictionary: hashing it never ends."""
    return b"\x80\x02}" + doubled(depth) + b"K\x01s."


def nested_items(depth: int = 60) -> bytes:
    """The same in a set."""
    return b"\x80\x04\x8f(" + doubled(depth) + b"\x90."


def nested_frozen(depth: int = 60) -> bytes:
    """The same in a frozen set."""
    return b"\x80\x04(" + doubled(depth) + b"\x91."


def nested_values(depth: int = 60) -> bytes:
    """The same as a value: walking, printing or comparing it never ends."""
    return b"\x80\x02}X\x01\x00\x00\x00a" + doubled(depth) + b"s."


def nested_names(depth: int = 60) -> bytes:
    """The same as the name of a dtype, which an error message would print."""
    return b"\x80\x02cnumpy\ndtype\n" + doubled(depth) + b"\x85R."


def nested_encodings(depth: int = 60) -> bytes:
    """The same as the name of an encoding."""
    return b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00a" + doubled(depth) + b"\x86R."


def called_keys(name: bytes, depth: int = 60) -> bytes:
    """The same in what a container is made of by a call."""
    pair = b"K\x01\x86" if name.endswith((b"dict\n", b"Dict\n")) else b""
    return b"\x80\x02c" + name + b"](" + doubled(depth) + pair + b"e\x85R."


def doubled(depth: int) -> bytes:
    """A tuple that holds another twice, `depth` times over."""
    parts = [b"K\x00\x85"]
    for level in range(depth):
        parts.append(b"r" + struct.pack("<I", level) + b"j" + struct.pack("<I", level) + b"\x86")
    return b"".join(parts)


def repeated_encode(calls: int, length: int = 100_000) -> bytes:
    """One text encoded again and again."""
    text = b"X" + struct.pack("<I", length) + b"a" * length
    again = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    return b"\x80\x02](" + text + b"q\x01" + again * calls + b"e."


def repeated_list(calls: int, length: int = 10_000, name: bytes = b"list") -> bytes:
    """A container made of one list again and again."""
    once = b"](" + b"K\x01" * length + b"eq\x01"
    return b"\x80\x02](" + once + (b"cbuiltins\n" + name + b"\nh\x01\x85R") * calls + b"e."


def repeated_scalar(calls: int, length: int = 90_000) -> bytes:
    """One long text as a numpy scalar again and again."""
    dtype = b"cnumpy\ndtype\nX\x06\x00\x00\x00S90000\x85Rq\x02"
    data = b"\x80\x04B" + struct.pack("<I", length) + b"a" * length + b"q\x01"
    again = b"cnumpy.core.multiarray\nscalar\nh\x02h\x01\x86R"
    return data + dtype + b"](" + again * calls + b"e."


def empty_items(kind: str, items: int) -> bytes:
    """An array of very many items that have no bytes."""
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00" + kind.encode() + b"\x85R"
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    shape = b"J" + struct.pack("<i", items) + b"\x85"
    return b"\x80\x04" + array + b"(K\x01" + shape + dtype + b"\x89C\x00tb."


def empty_containers(opcode: bytes, count: int) -> bytes:
    """As many empty containers as the file has bytes."""
    return b"\x80\x04](" + opcode * count + b"e."


def memo_of_one(count: int) -> bytes:
    """One object remembered again and again."""
    return b"\x80\x04N" + b"\x94" * count + b"."


def deep(levels: int) -> bytes:
    """Lists in lists."""
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


def marks(count: int) -> bytes:
    """Marks that nothing ends."""
    return b"\x80\x02" + b"(" * count + b"."


def busy(count: int) -> bytes:
    """Objects made and thrown away."""
    return b"\x80\x02" + b"N0" * count + b"N."


def ring() -> bytes:
    """A list that holds itself."""
    return b"\x80\x02]q\x00h\x00a."


def colliding(count: int) -> bytes:
    """Whole numbers that all have one hash, as keys."""
    prime = (1 << 61) - 1
    return (
        pickle.dumps(dict.fromkeys(prime * i for i in range(1, 40)), 2)
        if count < 40
        else (
            b"\x80\x02}("
            + b"".join(
                b"\x8a\x0e" + (prime * (i << 24)).to_bytes(14, "little", signed=True) + b"N"
                for i in range(1, count)
            )
            + b"u."
        )
    )
