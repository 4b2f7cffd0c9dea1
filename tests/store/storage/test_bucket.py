"""A store that lives in a bucket: written, read, checked and repaired there, over any line."""

import json
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import store
from store import Manifest
from store.errors import DamagedStore, InputError, NotAStore, StoreError
from store.storage.storage import storage_at
from store.upkeep.gc import gc
from store.upkeep.info import info
from store.upkeep.merge import merge
from store.upkeep.repair import repair
from store.upkeep.verify import verify
from store.upkeep.view import view

ROOT = Path(__file__).parents[3]
FAULTS = ("lost", "reset", "late 503", 409, 412, 500, 503)


@pytest.fixture
def both(url, tmp_path, spec, make_rows):
    """The same units and manifest in a bucket and in a directory."""
    made = [store.create(where) for where in (url, tmp_path / "local")]
    for fs in made:
        feature = fs.add_feature(spec)
        for n in range(3):
            rows = make_rows({f"a{n}": n + 1, f"ü{n}": 0, f"long{n}": 700}, seed=n)
            assert feature.commit(rows, {"torch": "2.12"})
            assert not feature.commit(rows)
        fs.add_manifest(Manifest(table={"path": ("a0", "a1"), "clip_id": ("a0", "a1")}))
    return made


def assert_equal(bucket, local):
    assert bucket.features == local.features
    assert bucket.manifest().table == local.manifest().table
    ours, theirs = store.open(bucket.name)["toy"], local["toy"]
    assert ours.clip_ids == theirs.clip_ids
    order = [*reversed(theirs.clip_ids), *theirs.clip_ids[:2]]
    for verified in (False, True):
        np.testing.assert_array_equal(ours.read(order, verify=verified)[0], theirs.read(order)[0])
    np.testing.assert_array_equal(ours.read_times(order), theirs.read_times(order))
    np.testing.assert_array_equal(ours.status, theirs.status)
    assert ours.details(order) == theirs.details(order)
    for part, expected in zip(ours.scan(), theirs.scan(), strict=True):
        assert part[0] == expected[0]
        np.testing.assert_array_equal(part[1], expected[1])
    lazy = ours.dask(order).values.compute(scheduler="sync")
    np.testing.assert_array_equal(lazy, theirs.packed(order).values)


def test_a_bucket_gives_what_a_directory_gives(both):
    bucket, local = both
    assert_equal(bucket, local)
    reports = [verify(fs, deep=True) for fs in both]
    assert reports[0] == reports[1]
    facts = [info(fs).to_dict()["features"][0] for fs in both]
    for fact in facts:
        fact.pop("written", None)
    assert facts[0] == facts[1]
    assert store.create(bucket.name).store_id == bucket.store_id


def test_rows_go_through_chunks_and_shards_in_a_bucket(url, make_rows, monkeypatch, tmp_path):
    from store import FeatureSpec
    from store.parts import layout

    monkeypatch.setattr(layout, "CHUNK_BYTES", 64)
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", 2)
    monkeypatch.setattr(layout, "_INDEX_BYTES", 16 * 2 + 4)
    spec = FeatureSpec(slug="toy", modality="visual", dim=4, identity={})
    both = [store.create(where) for where in (url, tmp_path / "local")]
    for fs in both:
        fs.add_feature(spec).commit(make_rows({f"c{n}": n for n in range(9)}, seed=1))
        fs.add_manifest(Manifest(table={"path": ("c1",), "clip_id": ("c1",)}))
    assert_equal(*both)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_writers_race_in_a_bucket_over_a_bad_line(url, proxy, spec, make_rows, seed):
    """Three writers of the same four units, every kind of fault: one winner each, nobody fails."""
    store.create(url).add_feature(spec)
    rng, barrier, won = random.Random(seed), threading.Barrier(3), []
    for method in ("PUT", "GET", "HEAD"):
        proxy.plan(method, "", [rng.choice([*FAULTS, *[None] * 21]) for _ in range(300)])

    def write(who):
        feature = store.open(url)["toy"]
        barrier.wait()
        for n in range(4):
            if feature.commit(make_rows({f"clip{n}": 2, f"none{n}": 0}, seed=10 * who + n)):
                won.append((n, who))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    assert proxy.hit > 50
    feature = store.open(url)["toy"]  # reading over the same line
    values = {n: feature.read([f"clip{n}"])[0] for n in range(4)}
    proxy.plans.clear()
    assert sorted(n for n, _ in won) == list(range(4))
    for n, who in won:
        np.testing.assert_array_equal(
            values[n], make_rows({f"clip{n}": 2, f"none{n}": 0}, seed=10 * who + n).values
        )
    assert verify(store.open(url), deep=True).problems == []


@pytest.mark.parametrize("words", ["values/c/0/0", "commits/"])
def test_a_bucket_that_stops_answering_commits_nothing(url, proxy, spec, make_rows, words):
    feature = store.create(url).add_feature(spec)
    proxy.plan("PUT", words, [503] * 200)
    with pytest.raises(StoreError) as caught:
        feature.commit(make_rows({"a": 2}))
    assert len(str(caught.value).splitlines()) == 1
    proxy.plans.clear()
    assert store.open(url)["toy"].clip_ids == []
    assert feature.commit(make_rows({"a": 2}))
    assert len(store.open(url)["toy"].read(["a"])[0]) == 2


def test_a_bucket_that_stops_answering_is_no_damage(both, proxy):
    """What cannot be reached now must not be set aside as damaged."""
    bucket, _ = both
    for method in ("GET", "HEAD"):
        proxy.plan(method, "parts/u-", [503] * 2000)
    with pytest.raises(StoreError) as caught:
        repair(bucket)
    assert not isinstance(caught.value, DamagedStore)
    with pytest.raises(StoreError) as caught:
        bucket["toy"].packed()
    assert not isinstance(caught.value, DamagedStore)
    proxy.plans.clear()
    assert len(bucket["toy"].clip_ids) == 9


@pytest.mark.parametrize(
    ("change", "key"),
    [("flip", "values/c/0/0"), ("cut", "status/c/0"), ("lose", "detail/zarr.json")],
)
def test_damage_in_a_bucket_is_found_and_set_aside(both, make_rows, change, key):
    bucket, local = both
    unit = local["toy"].unit_name(["a1", "ü1", "long1"])
    (record,) = [r for r in bucket["toy"].records() if r.unit == unit]
    name = f"{bucket['toy']._keys.parts}/{record.part}/{key}"
    data = bytearray(bucket.storage.get(name, limit_bytes=1 << 30))
    bucket.storage.delete(name)
    if change != "lose":
        data[len(data) // 3] ^= 4
        bucket.storage.put_if_absent(name, bytes(data if change == "flip" else data[:-5]))
    (problem,) = verify(bucket).problems
    wanted = {"flip": "crc32c", "cut": "size", "lose": "missing"}
    assert (problem.kind, problem.unit, problem.file) == (wanted[change], unit, key)
    if "zarr" not in key:
        with pytest.raises(DamagedStore, match=unit):
            bucket["toy"].packed()
    done = repair(bucket)
    assert [(pending.unit, pending.clips) for pending in done.units] == [
        (unit, ("a1", "ü1", "long1"))
    ]
    assert verify(bucket).problems == []
    assert verify(bucket).garbage_parts == 1
    fresh = store.open(bucket.name)["toy"]
    assert len(fresh.clip_ids) == 6
    assert fresh.commit(make_rows({"a1": 2, "ü1": 0, "long1": 700}, seed=1))
    assert_equal(bucket, local)


def test_what_a_bucket_cannot_do_it_says(both, tmp_path):
    bucket, local = both
    for refused in (lambda: gc(bucket), lambda: view(bucket, "toy"), lambda: bucket.path):
        with pytest.raises(InputError, match=f"is a bucket.*store merge DIR {bucket.name}"):
            refused()
    copied = store.open(merge(tmp_path / "copy", [bucket.name]) and tmp_path / "copy")
    np.testing.assert_array_equal(copied["toy"].packed().values, local["toy"].packed().values)


def test_no_store_and_no_bucket_are_named(url):
    with pytest.raises(NotAStore, match="is no store"):
        store.open(url)
    storage_at(url).put_if_absent("letters/one.txt", b"dear")
    with pytest.raises(NotAStore, match="holds 'letters'"):
        store.create(url)
    with pytest.raises((StoreError, NotAStore)):
        store.open("s3://no-such-bucket/x")


def test_the_commands_take_a_url(both, proxy):
    """In processes of their own: nothing but the address and the environment."""
    bucket, _ = both
    printed = {}
    for command in (["info"], ["verify", "--deep"], ["doctor"]):
        run = [
            sys.executable,
            "-c",
            "import cli; cli.store_main()",
            *command,
            bucket.name,
            "--json",
        ]
        done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        printed[command[0]] = json.loads(done.stdout)
    assert printed["info"]["features"][0]["clips"] == 9
    assert (printed["verify"]["units"], printed["verify"]["problems"]) == (3, [])
    assert printed["doctor"]["many_writers"]
    assert "canary" not in json.dumps(printed)
