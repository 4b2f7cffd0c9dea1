"""The promises of `Format`, as tests of any format: what it keeps comes back, and bad files never
get in."""

import pickle
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store
from store import FeatureSpec, Status, UnitRows, plugins
from store.errors import InputError, MicroshotError, UnknownColumn
from store.exchange import importing
from store.exchange.exchange import FAMILY, export, import_
from store.exchange.formats import Format
from store.features.feature import Feature
from store.manifest import Manifest
from store.upkeep.verify import verify

KEEPS = {"rows", "times", "status", "clip_ids", "split", "columns", "features"}
LABELS = ["Playing cello, solo", "AC/DC", "Müller & Söhne", "..", "50% off", "日本語"]
HALF: dict[str, Any] = {"rtol": 2**-10, "atol": 1e-6}


def make_store(path: Any, clips: Any = 40, dim: Any = 6) -> Any:
    """Ragged rows, failures, silence, uneven times and names that are hard on files."""
    rng = np.random.default_rng(5)
    fs = store.create(path)
    ids = tuple(f"{LABELS[i % 6]}/clip {i},é.mp4".lstrip(".").lstrip("/") for i in range(clips))
    fs.add_manifest(
        Manifest(
            table={
                "path": tuple(f"media/{i}.mp4" for i in range(clips)),
                "clip_id": ids,
                "label": tuple(LABELS[i % 6] for i in range(clips)),
                "split": tuple(("train", "val", "test")[i // 6 % 3] for i in range(clips)),
                "group": tuple(f"g{i // 2}" for i in range(clips)),
                "mood; of/it": tuple("" if i % 5 else f"calm;{i}" for i in range(clips)),
            }
        )
    )
    for modality in ("visual", "audio"):
        feature = fs.add_feature(
            FeatureSpec(slug=f"toy-{modality}", modality=modality, dim=dim, identity={"fps": 2})
        )
        for start in range(0, clips, 15):
            unit = ids[start : start + 15]
            count = rng.integers(1, 5, len(unit)).astype(np.uint16)
            status = np.full(len(unit), Status.OK, np.uint8)
            status[3], status[7] = Status.DECODE_ERROR, Status.ABSENT
            count[[3, 7]] = 0
            times = [np.sort(rng.integers(0, 30000, n)).astype(np.int32) for n in count]
            feature.commit(
                UnitRows(
                    clip_ids=unit,
                    values=rng.standard_normal((int(count.sum()), dim)).astype(np.float16),
                    row_time_ms=np.concatenate(times),
                    row_count=count,
                    status=status,
                    media_sha256=np.zeros((len(unit), 32), np.uint8),
                    detail=("",) * len(unit),
                )
            )
    return fs


def chosen(fs: Any, name: str) -> Any:
    several = "features" in plugins.build(FAMILY, name).keeps
    return () if several else ("toy-visual",)


def snapshot(feature: Any) -> Any:
    """{clip id: (rows, times, status)}"""
    ids = feature.clip_ids
    values, offsets = feature.read(ids)
    times = feature.read_times(ids)
    return {
        clip: (values[a:b], times[a:b], Status(int(status)))
        for clip, a, b, status in zip(
            ids, offsets[:-1], offsets[1:], feature.status.tolist(), strict=True
        )
    }


def as_column(manifest: Any, column: Any) -> Any:
    return dict(zip(manifest.clip_ids, manifest.column(column), strict=True))


def bring(name: str, source: Any, target: Any, **settings: Any) -> Any:
    return import_(name, source, target, trust_pickle=True, **settings)


def compare(wanted: Any, found: Any, keeps: Any) -> Any:
    if "status" not in keeps:
        wanted = {clip: it for clip, it in wanted.items() if len(it[0])}
    assert set(found) == set(wanted)
    for clip, (rows, times, status) in wanted.items():
        if "rows" in keeps:
            np.testing.assert_array_equal(found[clip][0], rows)
        else:
            mean = rows.astype(np.float64).mean(0, keepdims=True)
            np.testing.assert_allclose(found[clip][0], mean, **HALF)
        if "times" in keeps:
            np.testing.assert_array_equal(found[clip][1], times)
        assert found[clip][2] == status


def compare_classes(fs: Any, back: Any, facts: Any) -> Any:
    """Without ids: the means of each class are among those that were there, and as many."""
    wanted, found = snapshot(fs["toy-visual"]), snapshot(back[back.features[0]])
    labels, came = as_column(fs.manifest(), "label"), as_column(back.manifest(), "label")
    labelled = [clip for clip in found if came[clip]]
    assert len(labelled) == facts.clips
    left = {clip: it[0].astype(np.float64).mean(0) for clip, it in wanted.items() if len(it[0])}
    for clip in labelled:
        same = [
            c
            for c, mean in left.items()
            if labels[c] == came[clip] and np.allclose(found[clip][0], mean, **HALF)
        ]
        assert len(same) == 1, clip
        del left[same[0]]


def damaged(output: Any, target: Any, change: Any) -> Any:
    """A copy with every file changed."""
    if output.is_dir():
        shutil.copytree(output, target)
        for path in target.rglob("*"):
            if path.is_file():
                path.write_bytes(change(path.read_bytes()))
    else:
        target.write_bytes(change(output.read_bytes()))


def refused(name: str, source: Any, tmp_path: Path, **settings: Any) -> Any:
    """The one line an import answers with; no store was made."""
    with pytest.raises(MicroshotError) as caught:
        bring(name, source, tmp_path / "back", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back").exists()
    return str(caught.value)


class Payload:
    """Would make a file if it were run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


class FormatContract:
    """What is exported comes back, what is lost is said, and no file is trusted."""

    @pytest.fixture
    def keeps(self, name: str) -> Any:
        return plugins.build(FAMILY, name).keeps

    @pytest.fixture(scope="class")
    @classmethod
    def fs(cls, tmp_path_factory: Any) -> Any:
        return make_store(tmp_path_factory.mktemp("formats") / "fs")

    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, fs: Any, tmp_path_factory: Any) -> Any:
        """One exported file or directory of each format, written once; tests damage copies."""
        made = {}

        def get(name: str) -> Any:
            if name not in made:
                path = tmp_path_factory.mktemp("exported") / f"out.{name}"
                made[name] = path, export(fs, name, path, features=chosen(fs, name))
            return made[name]

        return get

    @pytest.fixture(scope="class")
    @classmethod
    def brought(cls, exported: Any, tmp_path_factory: Any) -> Any:
        """The store that one import of each format made, and what it said; tests change nothing."""
        made = {}

        def get(name: str) -> Any:
            if name not in made:
                path = tmp_path_factory.mktemp("brought") / "back"
                made[name] = path, bring(name, exported(name)[0], path)
            return made[name]

        return get

    def test_it_is_a_format(self, name: str, keeps: Any) -> None:
        assert isinstance(plugins.build(FAMILY, name), Format)
        assert keeps <= KEEPS

    def test_what_it_keeps_comes_back(
        self, fs: Any, exported: Any, brought: Any, name: str, keeps: Any
    ) -> None:
        facts = exported(name)[1]
        assert facts.clips > 20
        back = store.open(brought(name)[0])
        assert verify(back, deep=True).problems == []
        assert len(back.features) == (2 if "features" in keeps else 1)
        for feature in (back[one] for one in back.features):
            modality = feature.modality if "features" in keeps else "visual"
            if "clip_ids" in keeps:
                compare(snapshot(fs[f"toy-{modality}"]), snapshot(feature), keeps)
        found, wanted = back.manifest(), fs.manifest()
        if "clip_ids" not in keeps:
            compare_classes(fs, back, facts)
            return
        columns = wanted.columns if "columns" in keeps else ("label",)
        for column in {*columns, *(("split",) if "split" in keeps else ())}:
            cells = as_column(wanted, column)
            assert as_column(found, column) == {c: cells[c] for c in found.clip_ids}, column

    def test_left_out_clips_are_counted(
        self, fs: Any, exported: Any, name: str, keeps: Any
    ) -> None:
        facts = exported(name)[1]
        assert facts.clips + facts.left_out == sum(facts.status.values())
        if "status" in keeps:
            assert facts.left_out == 0
        assert facts.status["decode-error"] > 0

    def test_identity_says_imported_and_from_where(self, brought: Any, name: str) -> None:
        path, facts = brought(name)
        for one in facts.features:
            spec = store.open(path)[one].spec
            assert spec.slug.startswith("imported-")
            assert spec.identity["imported"] == name
            assert len(spec.identity["source_sha256"]) == 64

    def test_a_second_import_adds_nothing(self, exported: Any, brought: Any, name: str) -> None:
        path, first = brought(name)
        files = sorted(path.rglob("*"))
        assert bring(name, exported(name)[0], path) == first
        assert sorted(path.rglob("*")) == files

    def test_an_interrupted_import_goes_on(
        self, exported: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output, _ = exported(name)
        monkeypatch.setattr(importing, "UNIT_CLIPS", 10)
        bring(name, output, tmp_path / "whole")
        commit, calls = Feature.commit, []

        def failing(self: Feature, *args: Any, **kwargs: Any) -> Any:
            calls.append(self.name)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return commit(self, *args, **kwargs)

        monkeypatch.setattr(Feature, "commit", failing)
        with pytest.raises(KeyboardInterrupt):
            bring(name, output, tmp_path / "back")
        assert bring(name, output, tmp_path / "back").features
        units = Counter(p.name for p in (tmp_path / "whole" / "commits").rglob("*.json"))
        assert len(units) >= 3
        assert Counter(p.name for p in (tmp_path / "back" / "commits").rglob("*.json")) == units
        assert (
            len(calls) == len(units) + 1
        )  # none was written twice, only the interrupted one again
        assert verify(store.open(tmp_path / "back")).problems == []

    def test_nothing_is_overwritten_and_nothing_half_written(
        self, fs: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = tmp_path / "out"
        output.write_text("mine")
        with pytest.raises(InputError, match="exists"):
            export(fs, name, output, features=chosen(fs, name))
        assert output.read_text() == "mine"
        output.unlink()
        scan = Feature.scan

        def breaking(self: Feature, *args: Any, **kwargs: Any) -> Any:
            blocks = scan(self, *args, **kwargs)
            yield next(blocks)
            raise InputError("the disk broke")

        monkeypatch.setattr(Feature, "scan", breaking)
        with pytest.raises(InputError, match="the disk broke"):
            export(fs, name, output, features=chosen(fs, name))
        assert list(tmp_path.iterdir()) == []

    def test_classes_need_a_column(self, fs: Any, name: str, keeps: Any, tmp_path: Path) -> None:
        if {"columns", "status"} <= keeps:
            export(fs, name, tmp_path / "out", features=chosen(fs, name), label="nothing")
            return
        with pytest.raises(UnknownColumn, match="no column 'nothing'"):
            export(fs, name, tmp_path / "out", features=chosen(fs, name), label="nothing")
        with pytest.raises(InputError, match="has no mood"):
            export(fs, name, tmp_path / "out", features=chosen(fs, name), label="mood; of/it")

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
    def test_a_truncated_file_is_refused(
        self, exported: Any, name: str, share: Any, tmp_path: Path
    ) -> None:
        source = tmp_path / "cut"
        damaged(exported(name)[0], source, lambda data: data[: int(len(data) * share)])
        assert str(source) in refused(name, source, tmp_path)

    def test_flipped_bytes_never_surprise_us(
        self, exported: Any, name: str, tmp_path: Path
    ) -> None:
        """Formats without checksums may read them; nothing but our errors may come of it."""
        rng = np.random.default_rng(1)

        def flip(data: Any) -> bytes:
            data = bytearray(data)
            for place in rng.integers(0, len(data), 1 + len(data) // 2000):
                data[place] = rng.integers(0, 256)
            return bytes(data)

        outcomes = Counter[str]()
        for attempt in range(10):
            source = tmp_path / f"flipped{attempt}"
            damaged(exported(name)[0], source, flip)
            with suppress(MicroshotError):
                bring(name, source, tmp_path / f"back{attempt}")
                outcomes["read"] += 1
        assert outcomes["read"] < 10

    @pytest.mark.parametrize("trust", [False, True])
    def test_a_payload_is_never_run(
        self, exported: Any, name: str, trust: Any, tmp_path: Path
    ) -> None:
        source, marker = tmp_path / "payload", tmp_path / "marker"
        for content in (Payload(marker), [Payload(marker)] * 4, {"features": Payload(marker)}):
            data = pickle.dumps(content)
            damaged(exported(name)[0], source, lambda _, data=data: data)
            with pytest.raises(InputError):
                import_(name, source, tmp_path / "back", trust_pickle=trust)
            assert not marker.exists()
            shutil.rmtree(source) if source.is_dir() else source.unlink()
        pickle.loads(data)  # it would have
        assert marker.exists()

    def test_settings_and_names_are_answered(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(MicroshotError, match="has no setting 'colour'"):
            bring(f"{name}:colour=red", tmp_path, tmp_path / "back")
        with pytest.raises(InputError, match="to import"):
            bring(name, tmp_path / "nowhere", tmp_path / "back")
        refused(name, tmp_path, tmp_path / "empty")
