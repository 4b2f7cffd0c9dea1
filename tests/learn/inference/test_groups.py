"""Sources found from features: copies come together, look-alikes and silence do not."""

import csv

import numpy as np
import pytest

import learn
import store
from learn.data.group_file import manifest_of
from learn.inference import linkage
from learn.inference.linkage import joined, sense
from learn.inference.signatures import Signatures, signatures, unit
from store.errors import ConfigError, InputError

SOURCES, ROWS, DIM = 120, 10, 40


def world(seed=0, sources=SOURCES):
    """Rows of sources that change with time, around one of six classes."""
    rng = np.random.default_rng(seed)
    classes = 2 * rng.standard_normal((6, DIM))
    own = classes[np.arange(sources) % 6] + rng.standard_normal((sources, DIM))
    walk = 0.3 * rng.standard_normal((sources, ROWS, DIM)).cumsum(1)
    return own[:, None] + walk, rng


def fill(path, clips, *, digests=None, table=None, modality="visual", fs=None):
    """A store of clips: id → rows."""
    fs = fs or store.create(path)
    ids = tuple(clips)
    if table is not None:
        fs.add_manifest(store.Manifest(table={"path": ids, "clip_id": ids, **table}))
    elif not fs.manifest_names():
        fs.add_manifest(store.Manifest(table={"path": ids, "clip_id": ids}))
    counts = [len(rows) for rows in clips.values()]
    sha = np.zeros((len(ids), 32), np.uint8)
    for i, clip in enumerate(ids):
        sha[i, :4] = (digests or {}).get(clip, 0)
    dim = next(iter(clips.values())).shape[1]
    spec = store.FeatureSpec(slug=modality, modality=modality, dim=dim, identity={})
    fs.add_feature(spec).commit(
        store.UnitRows(
            clip_ids=ids, values=np.concatenate(list(clips.values())).astype(np.float16),
            row_time_ms=np.concatenate([np.arange(n, dtype=np.int32) * 1000 for n in counts]),
            row_count=np.array(counts, np.uint16), status=np.zeros(len(ids), np.uint8),
            media_sha256=sha, detail=("",) * len(ids),
        )
    )  # fmt: skip
    return fs


def copies(rows, rng):
    """A noisy copy, one cut at both ends, and one with other pictures of the same moments."""
    shift = 0.3 * rng.standard_normal(DIM)
    return {
        "noisy": rows + 0.2 * rng.standard_normal(rows.shape),
        "cut": rows[3:8] + 0.1 * rng.standard_normal((5, DIM)),
        "shifted": rows + shift,
    }


def found(path, tmp_path, name="g.csv", **asked):
    made = learn.groups(path, tmp_path / name, **asked)
    with (tmp_path / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return made, {row["clip_id"]: row for row in rows}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Every third source has three copies."""
    rows, rng = world()
    clips = {}
    for s in range(SOURCES):
        clips[f"{s:03d}"] = rows[s]
        if s % 3 == 0:
            clips |= {f"{s:03d}_{kind}": own for kind, own in copies(rows[s], rng).items()}
    path = tmp_path_factory.mktemp("groups") / "s"
    sources = tuple(clip[:3] for clip in clips)
    labels = tuple(f"class{int(clip[:3]) % 6}" for clip in clips)
    fill(path, clips, table={"group": sources, "label": labels})
    return path


def test_copies_are_one_group_and_others_none(copied, tmp_path):
    made, rows = found(copied, tmp_path)
    assert made.known["recall"] > 0.95
    assert made.known["precision"] > 0.95
    assert made.groups == pytest.approx(SOURCES / 3, abs=6)
    alone = [row for clip, row in rows.items() if len(clip) == 3 and int(clip) % 3]
    assert sum(bool(row["group"]) for row in alone) <= 12  # in few dimensions, by chance
    grouped = [row for row in rows.values() if row["group"]]
    assert {row["reason"] for row in grouped} == {"sight"}
    assert all(1 - linkage.RATIO <= float(row["score"]) <= 1 for row in grouped)
    assert found(copied, tmp_path, "again.csv")[1] == rows
    assert "ratio" in made.to_dict()["compared"]["sight"]


def test_a_collection_without_copies_has_no_groups(tmp_path):
    rows, _ = world(1)
    fill(tmp_path / "s", {f"{s:03d}": rows[s] for s in range(SOURCES)})
    assert found(tmp_path / "s", tmp_path)[0].grouped <= SOURCES // 15  # a few pairs by chance


def test_one_file_twice_is_one_source_whatever_is_seen(tmp_path):
    rows, _ = world(2)
    clips = {f"{s:03d}": rows[s] for s in range(SOURCES)}
    fill(tmp_path / "s", clips, digests={"000": 7, "050": 7, "051": 9})
    made, table = found(tmp_path / "s", tmp_path, by=("digest",))
    assert table["000"]["group"] == table["050"]["group"] != ""
    assert (table["000"]["reason"], table["000"]["score"]) == ("digest", "1.000")
    assert made.grouped == 2


def test_silence_connects_nobody_and_a_soundtrack_does(tmp_path):
    rows, rng = world(3)
    clips = {f"{s:03d}": rows[s] for s in range(SOURCES)}
    fs = fill(tmp_path / "s", clips)
    sound, _ = world(4)
    heard = {clip: sound[s][:4] for s, clip in enumerate(clips)}
    heard |= {clip: np.tile(sound[0][:1], (4, 1)) for clip in ("010", "020", "030", "040")}
    heard["099"] = heard["098"] + 0.1 * rng.standard_normal((4, DIM))
    fill(tmp_path / "s", heard, modality="audio", fs=fs)
    made, table = found(tmp_path / "s", tmp_path)
    assert made.compared["sound"].plain == 4
    assert table["098"]["group"] == table["099"]["group"] != ""
    assert table["099"]["reason"] == "sound"
    assert len({table[c]["group"] for c in ("010", "020")} - {""}) == len(
        [c for c in ("010", "020") if table[c]["group"]]
    )


def line(points):
    """Signatures of one row a clip."""
    rows = unit(points).astype(np.float16)
    n = len(rows)
    return Signatures(
        clips=np.arange(n), rows=rows, offsets=np.arange(n + 1), plain=np.zeros(n, bool)
    )


def test_a_chain_of_neighbours_is_not_one_group(monkeypatch):
    """Clips that drift, each near the next and far from most: single linkage alone joins them."""
    rng = np.random.default_rng(0)
    drift, points = rng.standard_normal(64), []
    for _ in range(60):
        drift = 0.95 * drift + np.sqrt(1 - 0.95**2) * rng.standard_normal(64)
        points.append(drift)
    points = np.concatenate([points, rng.standard_normal((300, 64))])
    own = sense(line(points), len(points))

    def largest():
        number = joined(len(points), [], [own])[:60]
        return int(np.unique(number[number >= 0], return_counts=True)[1].max())

    protected = largest()
    monkeypatch.setattr(linkage, "SHARE_ACROSS", 0.0)
    assert largest() >= 50  # one by one they are near
    assert protected <= 30


def test_signatures_are_those_of_each_clip(copied):
    fs = store.open(copied)
    position = {clip: i for i, clip in enumerate(fs.manifest().clip_ids)}
    of = signatures(fs["visual"], position)
    assert of.clips.tolist() == sorted(position.values())
    lengths = np.linalg.norm(of.rows.astype(np.float32), axis=1)
    assert np.allclose(lengths, 1, atol=2e-3)
    cut = position["000_cut"]
    assert of.counts[of.clips.tolist().index(cut)] == 5


def test_what_cannot_be_asked_is_one_line(copied, tmp_path):
    for asked in ({"by": ("smell",)}, {"by": ()}, {"ratio": 1.5}):
        with pytest.raises(ConfigError):
            learn.groups(copied, tmp_path / "g.csv", **asked)
    with pytest.raises(InputError, match=r"not called .csv"):
        learn.groups(copied, tmp_path / "g.txt")
    (tmp_path / "there.csv").touch()
    with pytest.raises(InputError, match="exists"):
        learn.groups(copied, tmp_path / "there.csv")


# ── the table in other commands ──────────────────────────────────────────────────────────────────


def test_groups_of_a_file_keep_copies_apart_and_tell_what_they_add(copied, tmp_path):
    made, _ = found(copied, tmp_path)
    of_source = np.random.default_rng(0).integers(0, 3, SOURCES)  # only a copy can tell
    lines = [f"{c},mood{of_source[int(c[:3])]}" for c in store.open(copied).manifest().clip_ids]
    (tmp_path / "moods.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    asked = {"ways": 3, "queries": 5, "episodes": 100, "support": ("v",), "heads": ("nearest",)}
    asked |= {"manifest": tmp_path / "moods.csv", "shots": (15,)}
    plain = learn.run_episodes(copied, **asked)
    assert plain.to_dict()["episodes"]["group"] is None
    result = learn.run_episodes(copied, group_file=made.output, inflation=True, **asked).to_dict()
    assert result["episodes"]["group_file"] == made.output
    (gain,) = result["inflation"]
    assert gain["inflation"] > 0.02  # a copy among the shots tells
    split = learn.split(
        copied, tmp_path / "split.csv", by="clips", group_file=made.output
    ).to_dict()
    assert split["splits"]["train"]["clips"]
    table = store.read_manifest(tmp_path / "split.csv")
    splits = {}
    for group, name in zip(table.column("group"), table.column("split"), strict=True):
        splits.setdefault(group or name, set()).add(name)
    assert all(len(names) == 1 for names in splits.values())


def test_a_file_of_other_clips_or_beside_a_column_is_refused(copied, tmp_path):
    fs = store.open(copied)
    (tmp_path / "g.csv").write_text("clip_id,group\nelse.mp4,s1\n")
    with pytest.raises(InputError, match=r"none of the 1 clips.*'else.mp4'"):
        manifest_of(fs, None, tmp_path / "g.csv")
    with pytest.raises(ConfigError, match="name one"):
        manifest_of(fs, None, tmp_path / "g.csv", "label")
    (tmp_path / "h.csv").write_text("clip_id,group\n000,s1\n001,s1\n")
    table = manifest_of(fs, None, tmp_path / "h.csv")
    assert dict(zip(table.clip_ids, table.column("group"), strict=True))["001"] == "s1"
    assert table.column("group").count("") == len(table) - 2
