"""Answers from kept vectors are those from rows, whatever becomes of the files."""

import csv
import json
import os
import shutil

import google_crc32c
import numpy as np
import pytest
import torch

import learn
import store
from learn.inference import search as search_module
from learn.inference import vector_cache
from learn.inference.embed import all_clips, embed
from learn.inference.search import _best
from learn.inference.vector_cache import VectorCache
from store import testing
from store.upkeep.gc import gc
from store.upkeep.remove import remove


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(vector_cache, "ENOUGH", 1)
    monkeypatch.setattr(vector_cache, "CLIPS", 64)


@pytest.fixture
def fs(tmp_path):
    return testing.fill(
        tmp_path / "store", clips=300, rows=3, dim=8, classes=5, silent_share=0.2,
        failed_share=0.05, clips_per_unit=50, disjoint=False,
    )  # fmt: skip


def features_of(fs):
    return {m: store.open(fs.path)[f"synthetic-{m}"] for m in ("visual", "audio")}


def refuse():
    raise AssertionError("the rows were read")
    yield


def read(batches):
    batches = list(batches)
    ids = [clip for batch in batches for clip in batch.ids]
    vectors = {n: torch.cat([b.vectors[n] for b in batches]) for n in batches[0].vectors}
    present = {n: torch.cat([b.present[n] for b in batches]) for n in batches[0].present}
    return ids, vectors, present


def assert_same(one, two):
    assert one[0] == two[0]
    for left, right in zip(one[1:], two[1:], strict=True):
        assert list(left) == list(right)
        for name in left:
            assert torch.equal(left[name], right[name])


def made(features):
    return embed(features, all_clips(features), memory_bytes=1 << 14)


def test_the_second_look_reads_no_rows_and_finds_the_same(fs):
    features = features_of(fs)
    wanted = read(made(features))
    assert_same(read(VectorCache(features, None).batches(lambda: made(features))), wanted)
    assert_same(read(VectorCache(features_of(fs), None).batches(refuse)), wanted)
    assert not list(fs.path.glob("index/vectors/tmp-*"))


def test_what_decides_the_vectors_decides_the_folder(fs, tmp_path):
    features = features_of(fs)
    for _ in range(2):
        read(VectorCache(features, None).batches(lambda: made(features)))
    sight = {"visual": features["visual"]}
    with pytest.raises(AssertionError, match="the rows were read"):
        read(VectorCache(sight, None).batches(refuse))
    with pytest.raises(AssertionError, match="the rows were read"):
        read(VectorCache(features, None, both=True).batches(refuse))
    read(VectorCache(sight, None).batches(lambda: made(sight)))
    assert len(list(fs.path.glob("index/vectors/*"))) == 2
    feature = features["visual"]
    rows = testing._rows(
        np.random.default_rng(0), ("new",), np.zeros((1, 8)), np.zeros(1, np.uint8), 2, False
    )
    feature.commit(rows)
    fresh = features_of(fs)
    found = read(VectorCache(fresh, None).batches(lambda: made(fresh)))
    assert "new" in found[0]
    assert_same(found, read(made(fresh)))
    # Of the two projections the one whose digest changed has another folder, in place of the old.
    assert len(list(fs.path.glob("index/vectors/*"))) == 2


def test_no_damage_changes_an_answer(fs):
    features = features_of(fs)
    wanted = read(made(features))
    read(VectorCache(features, None).batches(lambda: made(features)))
    (folder,) = fs.path.glob("index/vectors/*")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    rng = np.random.default_rng(0)
    for number in range(40):
        name = sorted(whole)[number % len(whole)]
        data = bytearray(whole[name])
        if number % 3 == 0:
            data = data[: int(rng.integers(len(data)))]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(data)
        if number % 7 == 0:
            (folder / name).unlink()
        assert_same(read(VectorCache(features, None).batches(lambda: made(features))), wanted)
        assert_same(read(VectorCache(features, None).batches(refuse)), wanted)


def test_a_look_that_ends_early_leaves_nothing(fs):
    features = features_of(fs)
    batches = VectorCache(features, None).batches(lambda: made(features))
    next(batches)
    batches.close()
    assert list((fs.path / "index" / "vectors").iterdir()) == []


@pytest.mark.parametrize("refused", ["mkdir", "space", "link"])
def test_a_disk_that_refuses_is_no_fault(fs, tmp_path, monkeypatch, refused):
    features = features_of(fs)
    wanted = read(made(features))
    if refused == "mkdir":
        (fs.path / "index").write_text("in the way")
    elif refused == "space":
        free = shutil.disk_usage(fs.path)._replace(free=10)
        monkeypatch.setattr(vector_cache.shutil, "disk_usage", lambda _: free)
    else:
        (tmp_path / "elsewhere").mkdir()
        (fs.path / "index").symlink_to(tmp_path / "elsewhere")
    assert_same(read(VectorCache(features, None).batches(lambda: made(features))), wanted)
    if refused == "link":
        assert list((tmp_path / "elsewhere").iterdir()) == []


def predicted(fs, folder, name):
    support = folder / "support.csv"
    manifest = fs.manifest()
    with support.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "label"])
        writer.writerows(zip(manifest.clip_ids[:40], manifest.column("label")[:40], strict=True))
    summary = learn.predict(fs.path, support=support, output=folder / f"{name}.csv", top=3)
    with (folder / f"{name}.csv").open() as file:
        return summary, list(csv.DictReader(file))


def test_predict_and_search_answer_alike_with_and_without(fs, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(vector_cache, "ENOUGH", 1 << 30)
        summary, wanted = predicted(fs, tmp_path, "plain")
        clip = next(row["clip_id"] for row in wanted if row["mode"] == "av")
        nearest = [learn.search(fs.path, clip, source=s, top=7) for s in ("v", "a", "av")]
    for name in ("first", "second"):
        found, rows = predicted(fs, tmp_path, name)
        assert (found.clips, found.in_support) == (summary.clips, summary.in_support)
        assert [list(row) for row in rows] == [list(row) for row in wanted]
        for row, other in zip(rows, wanted, strict=True):
            for key, cell in row.items():
                if key.endswith(("confidence", "novelty")) and cell:
                    assert float(cell) == pytest.approx(float(other[key]), abs=2e-4)
                else:
                    assert cell == other[key]
        again = [learn.search(fs.path, clip, source=s, top=7) for s in ("v", "a", "av")]
        assert again == nearest
    monkeypatch.setattr(search_module, "all_clips", lambda _: refuse())
    learn.search(fs.path, clip, source="v")


def test_the_best_of_batches_are_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(60):
        size, count = int(rng.integers(1, 50)), int(rng.integers(1, 12))
        scores = rng.integers(0, 6, size) / 3.0
        ids = [f"c{i:02d}" for i in rng.permutation(size)]
        there = rng.random(size) < 0.8
        best = []
        for first in range(0, size, 9):
            part = slice(first, first + 9)
            best = _best(best, ids[part], scores[part], there[part], count)
        every = sorted((-scores[i], ids[i]) for i in np.flatnonzero(there))
        assert best == every[:count]


@pytest.mark.parametrize(
    "forged",
    [
        lambda about: about["parts"][0]["checksums"].pop(),
        lambda about: about["parts"][0].update(checksums=None),
        lambda about: about["parts"][0].update(name=["visual"]),
        lambda about: about["parts"][0].update(dim=-8),
        lambda about: about.update(parts=[]),
        lambda about: about.update(clips=10**30),
        lambda about: about.update(clips=float("inf")),
        None,
    ],
)
def test_a_table_that_no_writer_wrote_is_as_none_even_with_a_proper_checksum(fs, forged):
    features = features_of(fs)
    wanted = read(VectorCache(features, None).batches(lambda: made(features)))
    (path,) = fs.path.glob("index/vectors/*/table.json")
    about = json.loads(path.read_text())["about"]
    if forged is None:
        path.write_text("[" * 100_000)
    else:
        forged(about)
        crc = google_crc32c.value(json.dumps(about).encode())
        path.write_text(json.dumps({"about": about, "crc32c": crc}))
    assert_same(read(VectorCache(features, None).batches(lambda: made(features))), wanted)
    assert_same(read(VectorCache(features, None).batches(refuse)), wanted)


def test_what_a_writer_that_died_left_goes_once_it_is_old(fs):
    features = features_of(fs)
    dead, alive = (fs.path / "index" / "vectors" / f"tmp-{i}" for i in (1, 2))
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / "0.vectors").write_bytes(b"x" * 99)
    os.utime(dead, (0, 0))
    read(VectorCache(features, None).batches(lambda: made(features)))
    assert not dead.exists()
    assert alive.exists()


def test_what_is_removed_from_a_store_is_not_kept_in_its_caches(fs):
    features = features_of(fs)
    read(VectorCache(features, None).batches(lambda: made(features)))
    assert list(fs.path.glob("index/vectors/*"))
    removed = remove(fs, "synthetic-visual")
    assert not (fs.path / "index" / "vectors").exists()
    assert list((fs.path / removed.trash / "vectors").iterdir())
    gc(fs, older_than_seconds=0.0)
    assert not list((fs.path / "tmp").iterdir())
