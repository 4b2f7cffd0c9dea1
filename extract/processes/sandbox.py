"""The sandbox of a decode process: what it gives up before it sees the first file.

| layer          | what it is                  | what is given up                             |
|----------------|-----------------------------|----------------------------------------------|
| `rlimits`      | limits of the process       | more than 64 open files                      |
| `no_new_privs` | no privileges, now or later | a super-user's rights, but to read all files |
| `landlock`     | rules about files           | all but interpreter, libraries and media     |
| `seccomp`      | a filter of system calls    | network, programs, processes, writing        |

Where the kernel lacks a layer, the others hold, and which ones do is said.
"""

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extract.processes import landlock, seccomp
from store.errors import ConfigError, choices

MODES = ("auto", "off", "require")
OPEN_FILES = 64
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/locale",
           "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime", "/dev/null",
           "/dev/urandom")  # fmt: skip
_HOME = Path(__file__).absolute().parents[2]
_OURS = (str(_HOME / "extract"), str(_HOME / "store"))
_NO_NEW_PRIVS = 38  # of prctl
_READ_EVERY_FILE = 1 << 2  # CAP_DAC_READ_SEARCH: a run as root reads what others own
_CAPABILITIES = 0x20080522  # the version of the structure


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """How a child is confined: `auto` (as far as the kernel can), `require` or `off`.

    Raises:
        ConfigError: another mode.
    """

    mode: str = "auto"
    readable: tuple[Path, ...] = ()  # files and folders beside interpreter and libraries

    def __post_init__(self) -> None:
        check_mode(self.mode)


def check_mode(mode: str) -> None:
    """Nothing, if it is a mode.

    Raises:
        ConfigError: it is none.
    """
    if mode not in MODES:
        raise ConfigError(f"no sandbox {mode!r}; there are {choices(mode, MODES)}")


AUTO, OFF = Sandbox(), Sandbox(mode="off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """The layers that hold, and why others do not."""

    layers: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    def and_of(self, other: "Confinement | None") -> "Confinement":
        """What holds for two children."""
        if other is None or other == self:
            return self
        return Confinement(
            layers=tuple(layer for layer in self.layers if layer in other.layers),
            missing={**other.missing, **self.missing},
        )


def confine(sandbox: Sandbox) -> Confinement:
    """Confine this process for good."""
    missing = {}
    for name, apply in _LAYERS.items():
        if sandbox.mode == "off":
            missing[name] = "switched off"
        elif name != "rlimits" and sys.platform != "linux":
            missing[name] = "Linux has it"
        else:
            try:
                apply(sandbox)
            except (OSError, LookupError) as error:
                missing[name] = _why(error)
    return Confinement(layers=tuple(name for name in _LAYERS if name not in missing),
                       missing=missing)  # fmt: skip


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        known = {
            errno.ENOSYS: "this kernel has none",
            errno.EOPNOTSUPP: "switched off when the system was started",
            errno.EPERM: "not permitted here, by a container's own filter perhaps",
        }
        return known.get(error.errno or 0, error.strerror or str(error))
    return str(error)


def _limits(_: Sandbox) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def _privileges(_: Sandbox) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then those of more than 32
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    kept = sets[0] & _READ_EVERY_FILE
    if libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _files(sandbox: Sandbox) -> None:
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
        raise LookupError("what the child imported has started threads, which it would not bind")
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *_OURS)
    places = {*python, *libraries, *_SYSTEM, *map(str, sandbox.readable)}
    landlock.restrict(place for place in places if place.startswith("/"))


def _calls(_: Sandbox) -> None:
    seccomp.restrict()


_LAYERS: dict[str, Callable[[Sandbox], None]] = {
    "rlimits": _limits,
    "no_new_privs": _privileges,
    "landlock": _files,
    "seccomp": _calls,
}
