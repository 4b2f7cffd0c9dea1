"""Two operations on one store: the second runs whole at every change that the first one makes."""

import shutil
import threading
from itertools import product

import pytest

import store
from store import Status
from store.errors import MicroshotError
from store.upkeep.gc import gc
from store.upkeep.merge import merge
from store.upkeep.repair import repair
from store.upkeep.verify import verify
from tests.store import operations
from tests.store.faults import Injector
from tests.store.upkeep.test_faults import assert_holds, assert_sound

OPERATIONS = ("write", "collect", "repair", "merge")


def run(operation, path) -> bool:
    """Whether the operation told its caller that `c` is there."""
    if operation == "write":
        return bool(store.open(path)["toy"].commit(operations.rows("c")))
    if operation == "collect":  # everything that no record names, however young
        gc(store.open(path), older_than_seconds=0.0)
    elif operation == "repair":
        repair(store.open(path))
    else:
        return merge(path, [path.with_name("other")]).sound
    return False


def attempt(operation, path) -> bool:
    try:
        return run(operation, path)
    except MicroshotError:
        return False  # nothing was promised


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Units `a` and `b`, damage in `b`, a lost part, old staging; and another store with `c`."""
    folder = tmp_path_factory.mktemp("template")
    operations.prepare(folder)
    operations.damage(folder)
    return folder


def interleaved(template, folder, first, second, number):
    """Run `second` before change `number` of `first`, and see what is left."""
    shutil.copytree(template, folder)
    path, promised, inside, ran = folder / "fs", [], False, False

    def act(at, kind, where):
        nonlocal inside, ran
        # In the thread of zarr's event loop nothing else of zarr can run: at the next change, then.
        if number <= at and not ran and threading.current_thread().name != "zarr_io":
            inside = ran = True
            promised.append(attempt(second, path))
            inside = False

    with Injector(path, lambda *event: inside or act(*event)) as injector:
        promised.append(attempt(first, path))
    assert ran or number >= len(injector.events) - 1
    check(path, any(promised))
    shutil.rmtree(folder)


def changes_of(template, folder, operation):
    """How many changes it makes when nobody comes between."""
    shutil.copytree(template, folder)
    with Injector(folder / "fs") as injector:
        attempt(operation, folder / "fs")
    shutil.rmtree(folder)
    return len(injector.events)


def check(path, promised):
    """What was there is there, what was promised too, and all that is left is sound."""
    fs = store.open(path)
    assert_sound(fs, {fs["toy"].unit_name(["b"])})
    run("repair", path)  # a damaged unit is in the way of reading any
    fs = store.open(path)
    assert_holds(fs, ["a"])
    if promised or fs["toy"].status_of(["c"]).tolist() != [Status.PENDING]:
        assert_holds(fs, ["c"])
    for operation in ("write", "collect"):
        run(operation, path)
    fs = store.open(path)
    assert_sound(fs)
    assert_holds(fs, ["a", "c"])
    report = verify(fs, deep=True)
    assert (report.problems, report.garbage_staging) == ([], 0)


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["sampled", "all"]
)
@pytest.mark.parametrize(("first", "second"), list(product(OPERATIONS, OPERATIONS)))
def test_nothing_is_lost_whatever_comes_between(template, tmp_path, first, second, every):
    """At one change of each pair, early for some and late for others; at all in the soak."""
    changes = changes_of(template, tmp_path / "counted", first)
    assert changes
    share = OPERATIONS.index(second) / len(OPERATIONS)
    for number in range(changes) if every else [int(share * changes)]:
        interleaved(template, tmp_path / str(number), first, second, number)
