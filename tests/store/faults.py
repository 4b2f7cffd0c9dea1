"""Watching every change a program makes below a directory, and failing or dying at one of them.

    python -m tests.store.faults OPERATION TEMPLATE OUT [POINTS LAST]

runs an operation on a copy of the store TEMPLATE for each of the changes it makes (POINTS spread
over them and the LAST ones, if POINTS is given), killed with SIGKILL just before that change, and
leaves the copies under OUT.
"""

import io
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_WATCHED = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
_current = None


class Injector:
    """Calls `act(number, kind, path)` before every change below `root`; for writes, halfway."""

    def __init__(self, root, act=lambda number, kind, path: None):
        self.root = os.path.realpath(root) + os.sep
        self.act, self.events = act, []
        self._lock = threading.RLock()

    def __enter__(self):
        global _current
        self._fsync, self._open = os.fsync, io.open
        os.fsync, io.open = self._flush, self._opened
        _current = self
        return self

    def __exit__(self, *_):
        global _current
        os.fsync, io.open = self._fsync, self._open
        _current = None

    def event(self, kind, path):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.root):
            with self._lock:
                number = len(self.events)
                self.events.append((kind, os.fspath(path)[len(self.root) :]))
            self.act(number, kind, path)  # not under the lock: it may do anything

    def _flush(self, descriptor):
        self.event("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        self._fsync(descriptor)

    def _opened(self, file, mode="r", *args, **kwargs):
        opened = self._open(file, mode, *args, **kwargs)
        return _Written(opened, file, self) if set("wxa+") & set(mode) else opened


class _Written:
    """A file that is torn in the middle of a write when the injector says so."""

    def __init__(self, file, path, injector):
        self._file, self._path, self._injector = file, path, injector

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        data = data if isinstance(data, str) else memoryview(data).cast("B")
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._injector.event("write", self._path)
        return len(data) // 2 + self._file.write(data[len(data) // 2 :])


def _audit(event, args):
    if _current is None:
        return
    if event == "open":
        if args[2] & _WRITING:
            _current.event("open", args[0])
    elif event in _WATCHED:
        path = args[1] if event == "os.link" else args[0]
        held = {"os.remove": 1, "os.rmdir": 1, "os.rename": 2}.get(event)
        if held and args[held] >= 0:  # relative to a descriptor
            path = Path(f"/proc/self/fd/{args[held]}").readlink() / path
        _current.event(event.removeprefix("os."), path)


sys.addaudithook(_audit)


def main(operation, template, out, points=0, last=0):
    """Count the changes, then kill at all of them, or at so many and at each of the last."""
    import zarr  # noqa: F401 (imported before forking, so that each child starts at once)

    from tests.store import operations

    run, out = getattr(operations, operation), Path(out)
    assert _die_at(None, run, template, out / "counted") == 0
    events = json.loads((out / "counted" / "events.json").read_text())
    step = max(1, len(events) // points) if points else 1
    killed = [n for n in range(len(events)) if n % step == 0 or n >= len(events) - last]
    for number in killed:
        code = _die_at(number, run, template, out / str(number))
        if code != -signal.SIGKILL:
            raise SystemExit(f"{operation} ended with {code} at change {number}")
    print(json.dumps({"events": events, "killed": killed}))


def _die_at(number, run, template, folder):
    """The exit code of a fork that runs the operation on a copy of the template."""
    shutil.copytree(template, folder)
    assert threading.active_count() == 1, "a fork must not copy threads"
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def act(at, kind, where):
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with Injector(folder / "fs", act) as injector:
        run(folder / "fs")
    (folder / "events.json").write_text(json.dumps(injector.events))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
