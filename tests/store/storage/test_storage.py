"""Directory and bucket keep the same promises, the bucket also over a bad line."""

import itertools
import json
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pytest

import store
from store.errors import ConfigError, DamagedStore, InputError, NotAStore, StoreError
from store.storage import posix
from store.storage.storage import PosixStorage, Storage, storage_at
from store.upkeep.doctor import doctor
from store.upkeep.merge import merge
from store.upkeep.verify import verify
from tests.store import fake_s3


@pytest.fixture(params=["directory", "bucket"])
def storage(request, tmp_path):
    if request.param == "directory":
        return PosixStorage(tmp_path / "fs")
    return storage_at(request.getfixturevalue("url"))


def test_a_key_is_put_once(storage):
    assert isinstance(storage, Storage)
    assert storage.put_if_absent("commits/f/é.json", b"first")
    assert not storage.put_if_absent("commits/f/é.json", b"second")
    assert storage.put_if_absent("commits/f/é.json", b"first")  # the echo of our own
    assert storage.get("commits/f/é.json", limit_bytes=5) == b"first"
    assert storage.exists("commits/f/é.json")
    storage.delete("commits/f/é.json")
    storage.delete("commits/f/é.json")
    assert not storage.exists("commits/f/é.json")
    assert storage.put_if_absent("commits/f/é.json", b"second")


def test_what_lacks_or_is_too_large_is_damage(storage):
    with pytest.raises(DamagedStore, match="missing"):
        storage.get("commits/none", limit_bytes=10)
    storage.put_if_absent("commits/large", bytes(11))
    with pytest.raises(DamagedStore, match="larger than 10 bytes"):
        storage.get("commits/large", limit_bytes=10)


def test_keys_are_listed_below_a_prefix(storage):
    for key in ("a/2", "a/1", "a/b/c", "ab/1"):
        storage.put_if_absent(key, b"x")
    assert storage.keys("a/") == ["a/1", "a/2", "a/b/c"]
    assert storage.keys("none/") == []


def test_a_part_appears_whole(storage):
    parts = {"zarr.json": b"group", "values/zarr.json": b"array", "values/c/0/0": bytes(99)}
    with storage.staging("staged") as staged:
        for name, data in parts.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(data)
        storage.publish(staged, "data.zarr/f/parts/p")
    assert storage.keys("data.zarr/f/parts/p/") == sorted(f"data.zarr/f/parts/p/{k}" for k in parts)
    assert storage.names("data.zarr/f/parts/p/") == ["values", "zarr.json"]
    assert storage.get("data.zarr/f/parts/p/values/c/0/0", limit_bytes=99) == bytes(99)
    with storage.staging("staged") as staged:
        (staged / "torn").write_bytes(b"x")
    assert not staged.exists()
    assert storage.keys("data.zarr/f/") == storage.keys("data.zarr/f/parts/p/")


def test_pieces_and_digests_of_a_key(storage):
    data = bytes(range(200))
    storage.put_if_absent("a/b", data)
    blob = storage.blob("a/b", 200)
    views = [memoryview(bytearray(7)), memoryview(bytearray(3))]
    assert (blob.size, blob.read_into(views, 50)) == (200, 10)
    assert b"".join(views) == data[50:60]
    assert blob.read_into([memoryview(bytearray(9))], 195) == 5
    assert storage.digests("a/b", deep=True) == (
        200,
        posix.crc32c_hex(data),
        sha256(data).hexdigest(),
    )
    assert storage.digests("a/b", deep=False)[2] == ""
    with pytest.raises(DamagedStore, match="missing"):
        storage.digests("a/none", deep=True)


def test_a_key_moves_once(storage):
    storage.put_if_absent("a/b", b"x")
    assert storage.move("a/b", "c/d")
    assert not storage.move("a/b", "c/e")
    assert (storage.exists("a/b"), storage.get("c/d", limit_bytes=1)) == (False, b"x")


@pytest.fixture
def local(tmp_path, spec, make_rows):
    fs = store.create(tmp_path / "local")
    fs.add_feature(spec)
    for n in range(3):
        fs["toy"].commit(make_rows({f"a{n}": n + 1, f"ü{n}": 0}, seed=n))
    fs.add_manifest(store.Manifest(table={"path": ("a0",), "clip_id": ("a0",)}))
    return fs


def snapshot(fs):
    return {p.relative_to(fs.path): p.read_bytes() for p in fs.path.rglob("*") if p.is_file()}


def test_a_store_goes_into_a_bucket_and_comes_back(local, url, tmp_path):
    done = merge(url, [local.path])
    assert (done.units, done.manifests, done.damaged) == (3, 1, [])
    assert (merge(url, [local.path]).units, merge(url, [local.path]).present) == (0, 3)
    back = merge(tmp_path / "back", [url])
    assert (back.units, back.manifests, back.damaged) == (3, 1, [])
    copied, wanted = snapshot(store.open(tmp_path / "back")), snapshot(local)
    assert {k: v for k, v in copied.items() if k.name != "store.json"} == {
        k: v for k, v in wanted.items() if k.name != "store.json"
    }
    assert verify(store.open(tmp_path / "back"), deep=True).problems == []


def test_plain_zarr_reads_the_bucket(local, url, proxy):
    import zarr
    from obstore.store import S3Store

    merge(url, [local.path])
    reader = zarr.storage.ObjectStore(S3Store.from_url(f"{url}/data.zarr"), read_only=True)
    for record in local["toy"].records():
        part = f"{record.feature_id}/parts/{record.part}"
        values = zarr.open_array(reader, path=f"{part}/values", mode="r")[...]
        (own,) = local.path.glob(f"data.zarr/{part}")
        np.testing.assert_array_equal(values, zarr.open_array(str(own / "values"), mode="r")[...])


@pytest.mark.parametrize("fault", ["lost", "reset", "late 503", 409, 412, 500, 503])
@pytest.mark.parametrize("times", [12, pytest.param(100, marks=pytest.mark.soak)])
def test_a_bad_line_makes_neither_two_winners_nor_a_false_conflict(url, proxy, fault, times):
    """Two writers per key; each fault hits one of the puts, sometimes twice in a row."""
    storage, rng = storage_at(url), random.Random(str(fault))
    with ThreadPoolExecutor(2) as pool:
        for number in range(times):
            key = f"commits/f/{number}"
            plan = [fault] * rng.choice([1, 1, 2])
            proxy.plan("PUT", key, [None, *plan] if rng.random() < 0.3 else plan)
            datas = [f"{number} by {who}".encode() for who in range(2)]
            together = rng.random() < 0.5
            if together:
                won = list(pool.map(lambda data, key=key: storage.put_if_absent(key, data), datas))
            else:
                won = [storage.put_if_absent(key, data) for data in datas]
                assert won == [True, False]  # the first is alone: it cannot lose
            assert sorted(won) == [False, True]
            assert storage.get(key, limit_bytes=99) == datas[won.index(True)]
            proxy.plans.clear()
    assert proxy.hit >= times * 0.9
    print(f"{fault}: {proxy.hit} injections, 0 duplicates, 0 false conflicts")


def test_writers_meet_in_a_bucket_over_a_bad_line(tmp_path, spec, make_rows, url, proxy):
    """Three stores with the same six units: one winner each, whole, and everybody ends well."""
    stores = []
    for who in range(3):
        stores.append(store.create(tmp_path / str(who)))
        stores[who].add_feature(spec)
        for n in range(6):
            stores[who]["toy"].commit(make_rows({f"clip{n}": 2}, seed=10 * who + n))
    rng = random.Random(1)
    kinds = [
        "lost",
        "reset",
        "late 503",
        409,
        500,
        503,
        *[None] * 30,
    ]  # seven in a row are an error
    for method, words in (
        ("PUT", "commits/"),
        ("PUT", "/values/"),
        ("PUT", "zarr.json"),
        ("GET", ""),
    ):
        proxy.plan(method, words, [rng.choice(kinds) for _ in range(60)])
    barrier, results = threading.Barrier(3), []

    def run(fs):
        barrier.wait()
        results.append(merge(url, [fs.path]))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, stores))
    assert proxy.hit > 20
    assert sum(done.units for done in results) == 6
    assert all(done.units + done.present == 6 for done in results)
    merge(tmp_path / "pulled", [url])
    pulled = store.open(tmp_path / "pulled")
    assert verify(pulled, deep=True).problems == []
    for n in range(6):
        values = pulled["toy"].read([f"clip{n}"])[0]
        whole = [np.array_equal(values, fs["toy"].read([f"clip{n}"])[0]) for fs in stores]
        assert sum(whole) == 1


@pytest.mark.parametrize("words", ["values/c/0/0", "toy", "commits/"])
def test_a_line_that_stays_bad_is_a_clean_error(local, url, proxy, words):
    proxy.plan("PUT", words, itertools.repeat(503, 100))
    with pytest.raises(StoreError) as caught:
        merge(url, [local.path])
    assert len(str(caught.value).splitlines()) == 1
    assert fake_s3.SECRET not in str(caught.value)
    proxy.plans.clear()
    assert storage_at(url).keys("commits/") == []
    assert merge(url, [local.path]).units == 3


def test_secrets_are_nowhere(local, url, tmp_path):
    merge(url, [local.path])
    storage = storage_at(url)
    for key in storage.keys(""):
        assert fake_s3.SECRET.encode() not in storage.get(key, limit_bytes=1 << 30)
    assert fake_s3.SECRET not in repr(vars(storage) | {"_store": ""})


def test_damage_in_the_bucket_is_not_taken(local, url, tmp_path):
    merge(url, [local.path])
    storage = storage_at(url)
    victim = next(key for key in storage.keys("data.zarr/") if key.endswith("values/c/0/0"))
    data = bytearray(storage.get(victim, limit_bytes=1 << 30))
    data[5] ^= 1
    storage.delete(victim)
    storage.put_if_absent(victim, bytes(data))
    done = merge(tmp_path / "back", [url])
    assert (done.units, len(done.damaged)) == (2, 1)
    assert done.damaged[0].unit in victim
    assert verify(store.open(tmp_path / "back"), deep=True).problems == []


def test_rows_from_a_bucket_win_over_their_absence(tmp_path, spec, make_rows, url):
    one, two = store.create(tmp_path / "one"), store.create(tmp_path / "two")
    one.add_feature(spec).commit(make_rows({"a": 0, "b": 2}, seed=1))
    two.add_feature(spec).commit(make_rows({"a": 3, "b": 2}, seed=2))
    merge(url, [two.path])
    wanted = store.open(two.path)["toy"].read(["a"])[0]
    assert merge(one.path, [url]).retried_clips == 1
    np.testing.assert_array_equal(store.open(one.path)["toy"].read(["a"])[0], wanted)
    third = store.create(tmp_path / "third")
    third.add_feature(spec).commit(make_rows({"b": 0, "a": 1}, seed=3))
    third["toy"].commit(make_rows({"a": 0, "b": 2}, seed=1))
    merge(f"{url}-2", [third.path])
    assert merge(f"{url}-2", [two.path]).retried_clips == 0  # another unit speaks for it already
    merge(f"{url}-3", [store.open(one.path).path])
    alone = store.create(tmp_path / "alone")
    alone.add_feature(spec).commit(make_rows({"a": 0, "b": 2}, seed=1))
    merge(f"{url}-4", [alone.path])
    assert merge(f"{url}-4", [two.path]).retried_clips == 1
    np.testing.assert_array_equal(store.open(f"{url}-4")["toy"].read(["a"])[0], wanted)


def test_the_doctor_finds_a_server_that_is_deaf_to_conditions(url, proxy):
    diagnosis = doctor(url)
    assert diagnosis.many_writers, diagnosis.checks
    assert json.loads(json.dumps(diagnosis.to_dict()))["free_bytes"] is None
    assert storage_at(url).keys("tmp/") == []
    proxy.deaf = True
    diagnosis = doctor(url)
    assert not diagnosis.many_writers
    assert "was not refused" in diagnosis.checks[0].message


def test_what_cannot_be_meant_is_refused(url, local, monkeypatch):
    with pytest.raises(NotAStore, match="is no store"):
        merge(local.path, [url])
    merge(url, [local.path])
    with pytest.raises(InputError, match="into itself"):
        merge(url, [url])
    with pytest.raises(StoreError, match="cannot"):
        merge("s3://no-such-bucket/x", [local.path])


@pytest.mark.parametrize("url", ["s3://", "s3:///", "s3:///prefix"])
def test_a_url_without_a_bucket_is_named(proxy, url):
    with pytest.raises(ConfigError, match="names no bucket"):
        storage_at(url)


def test_other_urls_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="s3://BUCKET/PREFIX"):
        storage_at("ftp://host/x")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"microshot\[s3\]"):
        storage_at("s3://bucket/x")
