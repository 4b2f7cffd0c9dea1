"""Landlock, Linux's way for a process to give up files for good: nothing but these may be read.

A rule is about a folder and all below it, wherever links lead: what counts is where a file really
is. Names, sizes and times of files elsewhere can still be asked for.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import stat
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on all processors
_VERSION = 1  # a flag: say which, make nothing
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILES = (0, 13, 14, 15, 15, 16)  # how many rights to files the versions know; 16 since then
_CONNECT_BIND = 0b11  # TCP, since version 4
_SIGNALS_SOCKETS = 0b11  # to processes outside, abstract sockets of others; since version 6
_O_PATH = getattr(os, "O_PATH", 0)
_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's Landlock.

    Raises:
        OSError: it has none, or it is switched off, or not for us.
    """
    return _call(_CREATE_RULESET, None, 0, _VERSION)


def restrict(readable: Iterable[str]) -> None:
    """From now on, this process may read these files and folders, and touch no others.

    Raises:
        OSError: as `version`.
    """
    known = version()
    rights = _Ruleset(
        files=(1 << _FILES[min(known, len(_FILES) - 1)]) - 1,
        network=_CONNECT_BIND if known >= 4 else 0,
        scoped=_SIGNALS_SOCKETS if known >= 6 else 0,
    )
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = _call(_CREATE_RULESET, ctypes.byref(rights), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str) -> None:
    try:
        file = os.open(path, _O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there, or not ours to open, needs no rule
        return
    try:
        allowed = _READ_FILE | (_READ_DIR if stat.S_ISDIR(os.fstat(file).st_mode) else 0)
        rule = _Beneath(allowed=allowed, parent=file)
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(file)


def _call(number: int, *arguments: object) -> int:
    words = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    answer: int = _libc.syscall(ctypes.c_long(number), *words)
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return answer
