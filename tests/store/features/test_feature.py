"""What is committed is read back, bit for bit, whatever the order and the parts."""

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given, settings

import store
from store import FeatureSpec, Status
from store.errors import DamagedStore, InputError, NotAStore, UnknownFeature
from store.parts import layout
from store.storage.posix import OpenFile


@st.composite
def units(draw):
    """Rows per clip of up to three units, and a reading order with repeats."""
    counts = draw(
        st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=3)
    )
    clips = [{f"ü{u}/{i}.mp4": n for i, n in enumerate(unit)} for u, unit in enumerate(counts)]
    every = [clip for unit in clips for clip in unit]
    return clips, draw(st.lists(st.sampled_from(every), max_size=12)), draw(st.integers(1, 9))


@settings(max_examples=10, deadline=None)
@given(units())
def test_any_clips_in_any_order_come_back(tmp_path_factory, make_rows, drawn):
    clips, order, dim = drawn
    fs = store.create(tmp_path_factory.mktemp("fs"))
    feature = fs.add_feature(FeatureSpec(slug="t", modality="visual", dim=dim, identity={}))
    truth, times, seen = {}, {}, []
    for seed, unit in enumerate(clips):
        rows = make_rows(unit, dim=dim, seed=seed)
        assert feature.commit(rows)
        bounds = np.cumsum(rows.row_count)[:-1]
        truth |= dict(zip(unit, np.split(rows.values, bounds), strict=True))
        times |= dict(zip(unit, np.split(rows.row_time_ms, bounds), strict=True))
    fresh = store.open(fs.path)["t"]
    values, offsets = fresh.read(order)
    assert values.dtype == np.float16
    assert offsets.tolist() == np.cumsum([0, *(len(truth[c]) for c in order)]).tolist()
    expected = [np.empty((0, dim), np.float16), *(truth[c] for c in order)]
    np.testing.assert_array_equal(values, np.concatenate(expected))
    expected_times = [np.empty(0, np.int32), *(times[c] for c in order)]
    np.testing.assert_array_equal(fresh.read_times(order), np.concatenate(expected_times))
    for ids, values, offsets in fresh.scan(verify=True):
        for i, clip in enumerate(ids):
            np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], truth[clip])
        seen += ids
    assert sorted(seen) == sorted(truth)
    assert seen == fresh.clip_ids
    assert fresh.details(order) == [f"how {clip} went" for clip in order]


def test_rows_across_chunks_and_shards(fs, make_rows, monkeypatch):
    """Small chunks: spans begin and end inside, at and across the borders of both."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 64)  # 8 rows of 4
    monkeypatch.setattr(layout, "CHUNKS_PER_SHARD", 2)
    monkeypatch.setattr(layout, "_INDEX_BYTES", 16 * 2 + 4)
    feature = fs.add_feature(FeatureSpec(slug="t", modality="visual", dim=4, identity={}))
    rows = make_rows({f"c{i}": n for i, n in enumerate([3, 5, 8, 0, 1, 40, 7, 16, 2])})
    feature.commit(rows)
    assert len(list(fs.path.glob("data.zarr/*/parts/*/values/c/*/0"))) == 6  # 82 rows, 16 a shard
    starts = dict(zip(rows.clip_ids, rows.row_start.tolist(), strict=True))
    for order in (["c5"], ["c8", "c0"], list(rows.clip_ids), ["c7", "c1", "c7"]):
        values, offsets = feature.read(order)
        for i, clip in enumerate(order):
            count = int(offsets[i + 1] - offsets[i])
            expected = rows.values[starts[clip] : starts[clip] + count]
            np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], expected)
        assert offsets[-1] == sum(rows.row_count[int(c[1])] for c in order)


def test_a_part_is_read_once_whatever_the_order(feature, make_rows, monkeypatch):
    for unit in ("ab", "cd"):
        feature.commit(make_rows({f"{unit}{i}": 2 for i in range(4)}))
    asked = []
    read_into = OpenFile.read_into
    monkeypatch.setattr(
        OpenFile, "read_into", lambda file, *span: asked.append(span) or read_into(file, *span)
    )
    feature.read(["cd3", "ab0", "cd0", "ab3", "cd1", "ab2", "cd2", "ab1"])
    assert len(asked) == 4  # of each part its index and its only chunk


@settings(max_examples=12, deadline=None)
@given(data=st.data(), verify=st.booleans())
def test_reading_is_what_zarr_reads(tmp_path_factory, make_rows, data, verify):
    """The fast paths against the obvious one, across chunks and shards, and table by table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_BYTES", 64)
        patch.setattr(layout, "CHUNKS_PER_SHARD", 2)
        patch.setattr(layout, "_INDEX_BYTES", 16 * 2 + 4)
        fs = store.create(tmp_path_factory.mktemp("fs"))
        feature = fs.add_feature(FeatureSpec(slug="t", modality="visual", dim=4, identity={}))
        counts = st.lists(st.integers(0, 40), min_size=1, max_size=5)
        for unit, rows in enumerate(data.draw(st.lists(counts, min_size=1, max_size=3))):
            feature.commit(make_rows({f"ü{unit}-{i}": n for i, n in enumerate(rows)}, seed=unit))
        asked = data.draw(st.lists(st.sampled_from(feature.clip_ids), max_size=9))
        fast, scanned = feature.read(asked, verify=verify)[0], list(feature.scan(verify))
        patch.setattr("store.features.feature.CAN_READ", False)
        np.testing.assert_array_equal(feature.read(asked)[0], fast)
        for first, second in zip(scanned, feature.scan(verify), strict=True):
            assert first[0] == second[0]
            np.testing.assert_array_equal(first[1], second[1])
            np.testing.assert_array_equal(first[2], second[2])
        for part in feature.parts():
            for name in layout.ARRAYS[1:]:
                plain = zarr.open_array(str(part.path / name), mode="r")[...]
                table = part._read(name)
                assert table.shape == plain.shape
                assert table.tolist() == plain.tolist()


def test_a_chunk_of_zeros_is_written(feature, make_rows, fs):
    """zarr omits chunks of fill values; ours would then look like lost ones."""
    rows = make_rows({"a": 3})
    rows.values[:] = 0
    rows.media_sha256[:] = 0
    rows.row_time_ms[:] = 0
    feature.commit(rows)
    (part,) = fs.path.glob("data.zarr/*/parts/u-*")
    names = {path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()}
    assert names == set(layout.part_files(clips=1, rows=3, dim=4))
    assert not feature.read(["a"])[0].any()


def test_a_clip_in_several_parts_counts_once(feature, make_rows):
    """Rows beat no rows; then the smallest unit name decides."""
    feature.commit(make_rows({"a": 0, "b": 2, "x": 1}, status=Status.DEADLINE, seed=1))
    feature.commit(make_rows({"a": 3, "b": 0, "y": 1}, status=Status.CRASH, seed=2))
    both = [make_rows({"c": 1, "d": 0}, status=s, seed=i) for i, s in ((3, 18), (4, 19))]
    both[1] = make_rows({"c": 2, "d": 0, "z": 1}, status=Status.CRASH, seed=4)
    for rows in both:
        feature.commit(rows)
    assert sorted(feature.clip_ids) == ["a", "b", "c", "d", "x", "y", "z"]
    assert feature.status_of(["a", "b"]).tolist() == [0, 0]
    assert np.diff(feature.read(["a", "b"])[1]).tolist() == [3, 2]
    winner = min(both, key=lambda rows: feature.unit_name(rows.clip_ids))
    np.testing.assert_array_equal(feature.read(["c"])[0], winner.values[: winner.row_count[0]])
    assert feature.status_of(["d"]).tolist() == [winner.status[1]]
    assert sorted(c for ids, _, _ in feature.scan() for c in ids) == sorted(feature.clip_ids)


def test_clips_come_by_unit_name_and_place(feature, make_rows):
    units = [(f"{u}2", f"{u}1") for u in "abcdef"]
    for unit in units:
        feature.commit(make_rows(dict.fromkeys(unit, 1)))
    ordered = sorted(units, key=feature.unit_name)
    assert feature.clip_ids == [clip for unit in ordered for clip in unit]


def test_a_retry_is_another_unit(feature, make_rows):
    clips = ("a", "b")
    assert feature.tries(clips) == 0
    assert feature.commit(make_rows(dict.fromkeys(clips, 0)))
    assert not feature.commit(make_rows(dict.fromkeys(clips, 2)))
    assert feature.tries(clips) == 1
    assert feature.commit(make_rows(dict.fromkeys(clips, 2)), retry=1)
    assert feature.has_unit(feature.unit_name(clips, retry=1))
    assert feature.committed() == dict.fromkeys(clips, Status.OK)
    assert feature.tries(["a", "new"]) == 2


def test_status_and_resume(fs, feature, make_rows, spec):
    other = store.open(fs.path).add_feature(spec)
    assert other.clip_ids == []
    assert not feature.has_unit(feature.unit_name(["a", "b"]))
    feature.commit(make_rows({"a": 1, "b": 0}, status=Status.ABSENT), {"device": "cpu"})
    assert feature.has_unit(feature.unit_name(["a", "b"]))
    assert not feature.has_unit("../../store")
    assert feature.status_of(["b", "zz", "a"]).tolist() == [2, Status.PENDING, 0]
    assert other.committed() == {"a": Status.OK, "b": Status.ABSENT}
    assert feature.status.tolist() == [0, 2]
    assert next(feature.part_attributes())["writer"]["device"] == "cpu"
    with pytest.raises(
        InputError, match=r"no clip 'zz' \(1 of 2 asked for are not committed, 2 are"
    ):
        feature.read(["a", "zz"])


def test_nothing_is_a_valid_request(feature):
    values, offsets = feature.read([])
    assert values.shape == (0, 4)
    assert offsets.tolist() == [0]
    assert feature.read_times([]).shape == (0,)
    assert list(feature.scan()) == []
    assert feature.status.shape == (0,)


def test_rows_of_another_size_are_refused(feature, make_rows):
    with pytest.raises(ValueError, match="rows have 5 numbers"):
        feature.commit(make_rows({"a": 1}, dim=5))


def test_features_are_found_by_what_people_type(fs):
    ids = {}
    for slug, modality in (("net-r50", "visual"), ("net-r50-wide", "visual"), ("vgg", "audio")):
        spec = FeatureSpec(slug=slug, modality=modality, dim=2, identity={}, notes={"n": slug})
        ids[slug] = fs.add_feature(spec).name
    assert fs.features == sorted(ids.values())
    assert fs["net-r50"].name == ids["net-r50"]  # the slug, though another name begins so too
    assert fs["vg"].name == ids["vgg"]
    assert fs[ids["vgg"]].notes == {"n": "vgg"}
    assert (fs["vgg"].dim, fs["vgg"].modality, fs["vgg"].dtype) == (2, "audio", np.float16)
    with pytest.raises(UnknownFeature, match="may be"):
        fs["net"]
    with pytest.raises(UnknownFeature, match="did you mean"):
        fs[ids["vgg"][:-1] + "g"]
    with pytest.raises(UnknownFeature):
        fs[""]


def test_the_first_notes_stay(fs, spec):
    first = fs.add_feature(
        FeatureSpec(slug="t", modality="visual", dim=4, identity={}, notes={"w": 1})
    )
    again = fs.add_feature(
        FeatureSpec(slug="t", modality="visual", dim=4, identity={}, notes={"w": 2})
    )
    assert first.name == again.name
    assert again.notes == {"w": 1}


def test_a_feature_with_another_identity_under_its_name_is_damage(fs, feature, spec):
    path = fs.path / "data.zarr" / feature.name / "zarr.json"
    path.write_text(path.read_text().replace('"fps": 1', '"fps": 2'))
    with pytest.raises(DamagedStore):
        fs.add_feature(spec)
    with pytest.raises(DamagedStore):
        fs["toy"]


def test_making_and_opening(tmp_path):
    with pytest.raises(NotAStore, match="does not exist; make one with"):
        store.open(tmp_path / "none")
    with pytest.raises(NotAStore, match="is no store"):
        store.open(tmp_path)
    (tmp_path / "clips").mkdir()
    for name, problem in (("clips/a.mp4", "is a file, no store"), ("clips", "of other things")):
        (tmp_path / "clips/a.mp4").write_bytes(b"")
        path = tmp_path / name
        with pytest.raises(NotAStore, match=rf"{problem}.*extract run {path} --store DIR"):
            store.open(path)
    made = store.create(tmp_path / "deep" / "er")
    assert store.create(made.path).store_id == made.store_id == store.open(str(made.path)).store_id
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(NotAStore, match=r"holds 'thesis.tex'"):
        store.create(tmp_path / "full")
    with pytest.raises(NotAStore, match="is a file"):
        store.create(tmp_path / "full" / "thesis.tex")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.tex"]


def test_a_half_made_store_is_finished(tmp_path):
    (tmp_path / "fs" / "data.zarr").mkdir(parents=True)
    assert store.create(tmp_path / "fs").features == []


@pytest.mark.parametrize(
    "text", ['{"format": 2, "store_id": "x"}', "{", "[]", "{}", '{"format": 1}']
)
def test_another_format_is_not_opened(fs, text):
    (fs.path / "store.json").write_text(text)
    with pytest.raises(NotAStore, match=r"format 2|not ours"):
        store.open(fs.path)


def test_lost_empty_directories_do_not_matter(fs, spec, make_rows):
    for name in ("tmp", "manifests", "commits"):
        (fs.path / name).rmdir()
    feature = store.open(fs.path).add_feature(spec)
    assert feature.commit(make_rows({"a": 1}))
    assert fs.manifest_names() == []


def test_a_look_up_file_gives_what_memory_gives(fs, spec, make_rows, monkeypatch):
    """Large stores keep one; it may be damaged, stale or forbidden, and the answers stay."""
    feature = fs.add_feature(spec)
    for n in range(4):
        feature.commit(make_rows({f"a{n}": n + 1, f"b{n}": 0, "again": n % 2 * 2}, seed=n))
    wanted, folder = store.open(fs.path)["toy"], fs.path / "index" / feature.name
    order = [*reversed(wanted.clip_ids), "a0", "again"]
    truth = wanted.packed([*order, "never"])
    assert not folder.exists()
    monkeypatch.setattr("store.features.committed.INDEX_PARTS", 2)

    def assert_same():
        reopened = store.open(fs.path)["toy"]
        assert reopened.clip_ids == wanted.clip_ids
        packed = reopened.packed([*order, "never"])
        np.testing.assert_array_equal(packed.values, truth.values)
        np.testing.assert_array_equal(packed.offsets, truth.offsets)
        np.testing.assert_array_equal(packed.time_ms, truth.time_ms)
        assert reopened.status_of(["never"]).tolist() == [Status.PENDING]
        assert [ids for ids, _, _ in reopened.scan()] == [ids for ids, _, _ in wanted.scan()]

    assert_same()
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    assert_same()
    asked = store.open(fs.path)["toy"]
    tables = []
    monkeypatch.setattr("store.features.committed._read_table", tables.append)
    asked.read(order)
    assert tables == []  # that is what the file is for
    monkeypatch.undo()
    feature.commit(make_rows({"new": 3}))
    monkeypatch.setattr("store.features.committed.INDEX_PARTS", 2)
    assert len(store.open(fs.path)["toy"].read(["new"])[0]) == 3
