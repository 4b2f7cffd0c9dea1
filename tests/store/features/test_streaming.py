"""Packed, padded, in batches and through dask: always the same rows."""

import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import store
from store import Manifest, Status
from store.errors import InputError, StoreError
from store.features.packed import Packed
from store.testing import fill

DIM = 5


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("filled") / "fs"
    fill(path, clips=60, rows=6, dim=DIM, classes=4, clips_per_unit=16, failed_share=0.2)
    return store.open(path)["synthetic-visual"]


def rows_of(packed):
    """{clip: rows and times} of anything packed."""
    cut = packed.offsets[1:-1]
    pairs = zip(np.split(packed.values, cut), np.split(packed.time_ms, cut), strict=True)
    return dict(zip(packed.clip_ids, pairs, strict=True))


def assert_same(clips, wanted):
    assert sorted(clips) == sorted(wanted)
    for clip, (values, times) in wanted.items():
        np.testing.assert_array_equal(clips[clip][0], values)
        np.testing.assert_array_equal(clips[clip][1], times)


def test_packed_is_read_with_places_for_clips_without_rows(filled):
    failed = [c for c, s in filled.committed().items() if s is Status.DECODE_ERROR]
    clip_ids = ["never", *filled.clip_ids[7:9], failed[0]]
    packed = filled.packed(clip_ids)
    values, offsets = filled.read(clip_ids[1:])
    np.testing.assert_array_equal(packed.values, values)
    np.testing.assert_array_equal(packed.offsets, [0, *offsets])
    np.testing.assert_array_equal(packed.time_ms, filled.read_times(clip_ids[1:]))
    assert packed.mask.tolist() == [False, *(np.diff(offsets) > 0)]
    assert not packed.mask[-1]
    assert filled.packed().clip_ids == tuple(filled.clip_ids)
    assert len(filled.packed([]).values) == 0


def test_padded_is_packed_with_zeros(filled):
    packed = filled.packed()
    padded = packed.padded()
    assert padded.values.shape == (60, packed.counts.max(), DIM)
    np.testing.assert_array_equal(padded.mask.sum(1), packed.counts)
    np.testing.assert_array_equal(padded.values[padded.mask], packed.values)
    np.testing.assert_array_equal(padded.time_ms[padded.mask], packed.time_ms)
    assert (np.diff(padded.mask.astype(int), axis=1) <= 0).all()  # real rows come first
    assert not padded.values[~padded.mask].any()
    assert packed.padded(9).values.shape[1] == 9
    assert filled.packed(["never"]).padded().values.shape == (1, 0, DIM)


def test_a_split_in_one_call(tmp_path):
    fs = fill(tmp_path / "fs", clips=24, rows=3, dim=DIM, classes=4)
    packed = fs.packed("synthetic-audio", split="train")
    assert packed.clip_ids == fs.manifest().select(split="train").clip_ids
    assert_same(rows_of(packed), rows_of(fs["synthetic-audio"].packed(packed.clip_ids)))


@settings(max_examples=15, deadline=None)
@given(
    clips=st.none() | st.integers(1, 70),
    memory=st.integers(1, 3000),
    seed=st.none() | st.integers(0, 5),
    data=st.data(),
)
def test_batches_bring_each_clip_once_within_memory(filled, clips, memory, seed, data):
    every = [*filled.clip_ids, "never"]
    wanted = data.draw(st.lists(st.sampled_from(every), unique=True, min_size=1))
    rows_by_clip, sizes = {}, []
    for batch in filled.batches(wanted, clips=clips, memory_bytes=memory, seed=seed):
        assert clips is None or len(batch) <= clips
        bytes_held = batch.values.nbytes + batch.time_ms.nbytes
        assert bytes_held <= memory or np.count_nonzero(batch.mask) == 1
        assert not set(batch.clip_ids) & set(rows_by_clip)
        rows_by_clip |= rows_of(batch)
        sizes.append(len(batch))
    assert_same(rows_by_clip, rows_of(filled.packed(wanted)))
    assert len(sizes) <= len(wanted)


def test_the_seed_decides_the_order(filled):
    def order(seed):
        return [c for b in filled.batches(clips=7, memory_bytes=400, seed=seed) for c in b.clip_ids]

    assert order(1) == order(1) != order(2)
    assert order(None) == filled.clip_ids
    # Clips of one part stay near each other: that is what makes reading fast.
    singly = [c for b in filled.batches(memory_bytes=1, seed=3) for c in b.clip_ids]
    assert np.count_nonzero(np.diff(filled.locate(singly).part)) == 3


def test_only_what_is_asked_for_is_read(filled, monkeypatch):
    asked = []
    packed = type(filled).packed
    monkeypatch.setattr(
        type(filled), "packed", lambda self, ids, **kw: asked.append(ids) or packed(self, ids, **kw)
    )
    stream = filled.batches(filled.clip_ids, clips=2, memory_bytes=200)
    next(stream)
    assert len(asked) == 1
    assert len(asked[0]) < 20


@pytest.mark.parametrize("options", [{"clips": 0}, {"memory_bytes": 0}])
def test_batches_of_nothing_are_refused(filled, options):
    with pytest.raises(InputError):
        next(filled.batches(**options))


def test_dask_reads_the_same_when_it_is_asked(filled, monkeypatch):
    from store.features import streaming as stream

    monkeypatch.setattr(stream, "_BLOCK_BYTES", 300)
    wanted = ["never", *reversed(filled.clip_ids)]
    lazy, packed = filled.dask(wanted), filled.packed(wanted)
    assert lazy.values.npartitions > 5
    lazy = pickle.loads(pickle.dumps(lazy))
    np.testing.assert_array_equal(lazy.values.compute(scheduler="sync"), packed.values)
    np.testing.assert_array_equal(lazy.time_ms.compute(scheduler="threads"), packed.time_ms)
    np.testing.assert_array_equal(lazy.offsets, packed.offsets)
    nothing = filled.dask(["never"])
    assert nothing.values.compute(scheduler="sync").shape == (0, DIM)


def test_dask_sees_what_was_committed_later_and_not_what_has_gone(fs, spec, make_rows):
    feature = fs.add_feature(spec)
    feature.commit(make_rows({"a": 2}))
    np.testing.assert_array_equal(
        feature.dask(["a"]).values.compute(scheduler="sync"), feature.read(["a"])[0]
    )
    feature.commit(make_rows({"b": 3}))
    later = feature.dask(["b"]).values
    np.testing.assert_array_equal(later.compute(scheduler="sync"), feature.read(["b"])[0])
    fs.add_manifest(Manifest(table={"path": ("a",), "clip_id": ("a",)}))
    for unit in ("a", "b"):
        (fs.path / feature._keys.record(feature.unit_name([unit]))).unlink()
    from store.features import feature as module

    module._opened.cache_clear()
    with pytest.raises(StoreError, match="has changed"):
        later.compute(scheduler="sync")


def test_what_does_not_fit_is_not_packed():
    values, times = np.zeros((3, 2), np.float16), np.zeros(3, np.int32)
    for offsets in ([0, 2], [0, 3, 3], [1, 3], [0, 4]):
        with pytest.raises(ValueError):
            Packed(
                clip_ids=("a",), values=values, offsets=np.array(offsets, np.int64), time_ms=times
            )
