"""Any sequence of commits, kills, retries, collections and reads, against a dictionary."""

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import store
from store import FeatureSpec, Manifest, Status
from store.features.clip_index import ClipIndex, PartTable
from store.names import clip_keys
from store.upkeep.gc import gc
from store.upkeep.merge import merge
from store.upkeep.repair import repair
from store.upkeep.verify import verify
from store.upkeep.view import view
from tests.store.conftest import build_rows
from tests.store.faults import Injector

SPEC = FeatureSpec(slug="toy", modality="visual", dim=4097, identity={})
CLIPS = [f"clip{n}" for n in range(8)]
UNITS = [tuple(CLIPS[i : i + 2]) for i in range(0, 8, 2)] + [tuple(CLIPS[1:4])]
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # flushing is not what is tested


class _Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class StoreMachine(RuleBasedStateMachine):
    """`model` is what must be read: (unit name, clip) -> its rows, None for a failed clip."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(prefix="machine-", dir=MEMORY))
        self.fs = store.create(self.folder / "fs")
        self.feature = self.fs.add_feature(SPEC)
        self.units = {}  # committed: unit name -> {clip: rows or None}
        self.zombies = []  # rows whose part is published and whose record is not
        self.labels = {}
        self.seed = 0

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def rows(self, unit, failed):
        self.seed += 1
        counts = {clip: 0 if failed >> i & 1 else 1 + i for i, clip in enumerate(unit)}
        return build_rows(counts, dim=SPEC.dim, seed=self.seed)

    def remember(self, name, rows):
        assert name not in self.units
        split = np.split(rows.values, np.cumsum(rows.row_count)[:-1])
        self.units[name] = {
            clip: part if len(part) else None
            for clip, part in zip(rows.clip_ids, split, strict=True)
        }

    @rule(unit=st.sampled_from(UNITS), failed=st.integers(0, 7))
    def write(self, unit, failed):
        rows, name = self.rows(unit, failed), self.feature.unit_name(unit)
        won = self.feature.commit(rows)
        assert won == (name not in self.units)
        if won:
            self.remember(name, rows)

    @rule(clip=st.sampled_from(CLIPS), failed=st.integers(0, 1))
    def retry(self, clip, failed):
        """By a fresh process, as `extract run --retry` does."""
        feature = store.open(self.fs.path)["toy"]
        number = feature.tries([clip])
        assert number == sum(clip in unit for unit in self.units.values())
        rows, name = self.rows((clip,), failed), feature.unit_name([clip], retry=number)
        if feature.commit(rows, retry=number):
            self.remember(name, rows)
        else:
            assert name in self.units

    @rule(unit=st.sampled_from(UNITS), failed=st.integers(0, 7), share=st.floats(0, 1))
    def kill(self, unit, failed, share):
        """Everything below the kill is undone by nobody: not even `finally` may touch the disk."""
        rows, name = self.rows(unit, failed), self.feature.unit_name(unit)
        is_committed, last = name in self.units, int(share * 135)
        dead = False

        def act(number, kind, path):
            nonlocal dead
            dead = dead or number >= last
            if dead:
                raise _Killed

        with Injector(self.fs.path, act):
            try:
                self.feature.commit(rows)
            except BaseException as error:  # zarr may wrap it
                if not dead:
                    raise AssertionError("failed without being killed") from error
        self.feature = store.open(self.fs.path)["toy"]
        if self.feature.has_unit(name) and not is_committed:
            self.remember(name, rows)

    @rule(unit=st.sampled_from(UNITS), failed=st.integers(0, 7))
    def fall_asleep(self, unit, failed):
        """A writer stops between publishing its part and committing it."""
        from store.parts import commit as protocol

        slept = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "put_record", lambda *args: slept.append(args) or False)
            rows = self.rows(unit, failed)
            assert not self.feature.commit(rows)
        self.zombies += [(rows, *args) for args in slept]

    @precondition(lambda self: self.zombies)
    @rule(which=st.integers(0, 9))
    def wake_up(self, which):
        """The record wins if the unit is still free and nobody collected the part."""
        from store.errors import StoreError
        from store.parts.commit import put_record

        rows, storage, record = self.zombies.pop(which % len(self.zombies))
        keys = self.fs.keys_of(self.feature.name)
        is_present = (self.fs.path / keys.parts / record.part).exists()
        free = record.unit not in self.units
        try:
            won = put_record(storage, record)
        except StoreError:
            assert free
            assert not is_present
            return
        assert won == (free and is_present)
        if won:
            self.remember(record.unit, rows)

    @rule(old=st.booleans())
    def collect(self, old):
        before = verify(self.fs)
        done = gc(self.fs, older_than_seconds=0.0 if old else 3600.0)
        after = verify(self.fs)
        if old:
            assert len(done.parts) == before.garbage_parts
            assert (after.garbage_parts, after.garbage_staging) == (0, 0)
        else:
            assert (done.parts, done.staging) == ([], [])
            assert after.garbage_parts == before.garbage_parts

    @precondition(lambda self: self.units)
    @rule(which=st.integers(0, 9), data=st.randoms(use_true_random=False))
    def damage_and_repair(self, which, data: random.Random):
        name = sorted(self.units)[which % len(self.units)]
        (part,) = [p.path for p in store.open(self.fs.path)["toy"].parts() if p.record.unit == name]
        victim = data.choice(sorted(path for path in part.rglob("*") if path.is_file()))
        victim.unlink()
        assert {problem.unit for problem in verify(self.fs).problems} == {name}
        assert [unit.unit for unit in repair(self.fs).units] == [name]
        del self.units[name]
        self.feature = store.open(self.fs.path)["toy"]

    @rule(
        clips=st.lists(st.sampled_from(CLIPS), min_size=1, unique=True),
        label=st.text("xy", max_size=2),
    )
    def extend_manifest(self, clips, label):
        table = {"path": tuple(clips), "clip_id": tuple(clips), "label": (label,) * len(clips)}
        self.fs.add_manifest(Manifest(table=table))
        self.labels |= dict.fromkeys(clips, label)

    @rule()
    def merge_away(self):
        """A new store takes all over, and is equal."""
        target = store.create(self.folder / "merged")
        assert merge(target.path, [self.fs.path]).damaged == []
        if self.units:
            self.assert_equal(target["toy"])
        assert verify(target, deep=True).problems == []
        shutil.rmtree(target.path)

    @rule()
    def look_through_view_and_index(self):
        import zarr

        feature, wanted = store.open(self.fs.path)["toy"], self.wanted()
        root = zarr.open_group(str(view(self.fs, "toy").path), mode="r")
        ids = root["clip_id"][...].tolist()
        assert sorted(ids) == sorted(wanted)
        parts = {part.record.part: part for part in feature.parts()}

        def load(name):
            part = parts[name]
            return PartTable(part.clip_keys, part.row_start, part.row_count, part.status)

        index = ClipIndex(self.fs.path, f"index/{feature.name}", parts, load)
        located = index.lookup(clip_keys(CLIPS))
        for i, clip in enumerate(CLIPS):
            if clip not in wanted:
                assert (located.part[i], located.status[i]) == (-1, Status.PENDING)
                continue
            rows, at = wanted[clip], ids.index(clip)
            count = 0 if rows is None else len(rows)
            assert (located.rows[i], root["row_count"][at]) == (count, count)
            if count:
                start = int(root["row_start"][at])
                np.testing.assert_array_equal(root["values"][start : start + count], rows)
                part = parts[index.parts[located.part[i]]]
                first = int(located.start[i])
                np.testing.assert_array_equal(part.rows(first, first + count), rows)

    def wanted(self):
        """Rows before none, then the smallest unit name."""
        chosen = {}
        for _, unit in sorted(self.units.items()):
            for clip, rows in unit.items():
                if chosen.get(clip) is None:
                    chosen[clip] = rows
        return chosen

    def assert_equal(self, feature):
        wanted = self.wanted()
        assert sorted(feature.clip_ids) == sorted(wanted)
        clips = sorted(wanted)
        values, offsets = feature.read(clips)
        for i, clip in enumerate(clips):
            rows = np.empty((0, SPEC.dim)) if wanted[clip] is None else wanted[clip]
            np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], rows)

    @invariant()
    def the_store_is_the_dictionary(self):
        if not hasattr(self, "fs"):
            return
        self.assert_equal(store.open(self.fs.path)["toy"])
        if self.labels:
            manifest = self.fs.manifest()
            assert (
                dict(zip(manifest.clip_ids, manifest.column("label"), strict=True)) == self.labels
            )
        assert verify(self.fs).problems == []
        keys = self.fs.keys_of(self.feature.name)
        assert {path.stem for path in (self.fs.path / keys.commits).iterdir()} == set(self.units)


@pytest.mark.parametrize(
    ("examples", "steps"), [(4, 20), pytest.param(200, 75, marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("caches", ["none", "always"])
def test_a_store_is_a_dictionary(examples, steps, caches, monkeypatch):
    """With the caches of large stores and without."""
    if caches == "always":
        monkeypatch.setattr("store.features.records.SEGMENT_RECORDS", 1)
        monkeypatch.setattr("store.features.committed.INDEX_PARTS", 1)
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=examples < 100,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
