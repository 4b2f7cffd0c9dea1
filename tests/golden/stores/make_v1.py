"""How `v1.zarr.tar.gz` and `v1.json` were made. Run once, by the version that introduced format 1.

Reason: stores outlive the program. Every later version must read these very bytes, so they are
never made again; a new format gets its own archive beside this one. The archive is compressed
because every chunk of rows is padded to half a MiB or more on disk (3 MB unpacked, 20 kB packed).
Tolerance: none, on any platform.

It holds two features of odd sizes in three units each; clips that are ok, partial, absent and
failed; one clip that spans two chunks; a retry that won; ids in five scripts; two manifests of
which the later wins; and what readers must ignore: a part that lost, staging, an unknown file.

    python tests/golden/stores/make_v1.py
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

import store
from store import FeatureSpec, Manifest, Status, UnitRows

HERE = Path(__file__).parent
UNITS = [
    {"cats/tabby.mp4": 3, "犬/柴犬.mp4": 1100, "zażółć gęślą.mp4": 0},
    {"собака.webm#0-2.5": 5, "🦆 duck (1).mkv": 2, "\u202bקול\u202c.wav": 0},  # noqa: RUF001
    {"a/b/c.mp4": 0, "é.mp4": 1},  # "é" in its composed form
]
STATUS = {"zażółć gęślą.mp4": Status.DECODE_ERROR, "a/b/c.mp4": Status.MISSING}
PARTIAL = {"🦆 duck (1).mkv"}


def unit_rows(clips: dict[str, int], dim: int, status: dict[str, Status]) -> UnitRows:
    count = np.array(list(clips.values()), np.uint16)
    codes = [
        (Status.PARTIAL if clip in PARTIAL else Status.OK) if rows else status[clip]
        for clip, rows in clips.items()
    ]
    total = int(count.sum())
    cells = (np.arange(total * dim) * 40503 % 251 - 125).reshape(total, dim) / 8
    return UnitRows(
        clip_ids=tuple(clips),
        values=cells.astype(np.float16),
        row_time_ms=np.concatenate([np.arange(n, dtype=np.int32) * 333 for n in count]),
        row_count=count,
        status=np.array(codes, np.uint8),
        media_sha256=np.stack(
            [np.frombuffer(sha256(clip.encode()).digest(), np.uint8) for clip in clips]
        ),
        detail=tuple(f"how {clip} went" for clip in clips),
    )


def fill(path: Path) -> dict:
    """Make the store; gives what a reader must find, from what was handed to the writer."""
    fs = store.create(path)
    features = {}
    clips = tuple(clip for unit in UNITS for clip in unit)
    table = {"path": clips, "clip_id": clips, "label": tuple(clip[0] for clip in clips)}
    fs.add_manifest(Manifest(table=table))
    later = {"path": clips[:1], "clip_id": clips[:1], "label": ("cat;tabby",), "split": ("test",)}
    fs.add_manifest(Manifest(table=later))
    shapes = {"visual": 257, "audio": 3}
    for modality, dim in shapes.items():
        spec = FeatureSpec(
            slug=f"golden-{modality}",
            modality=modality,
            dim=dim,
            identity={"encoder": "golden", "fps": 3.0, "mean": [0.5, 0.25], "名": None},
            notes={"licence": "none", "untrained": True},
        )
        feature = fs.add_feature(spec)
        lacks = {clip: Status.ABSENT for unit in UNITS for clip in unit} | STATUS
        written = []
        for clips_of_unit in UNITS:
            silent = modality == "audio" and "a/b/c.mp4" in clips_of_unit
            counts = dict.fromkeys(clips_of_unit, 0) if silent else clips_of_unit
            written.append(unit_rows(counts, dim, lacks))
            feature.commit(written[-1], {"device": "cpu"})
        if modality == "visual":
            written.append(unit_rows({"a/b/c.mp4": 4}, dim, lacks))
            feature.commit(written[-1], retry=feature.tries(["a/b/c.mp4"]))
            add_garbage(fs, feature)
        features[feature.name] = {
            "spec": spec.digested,
            "notes": spec.notes,
            "clips": {clip: facts for rows in written for clip, facts in clip_facts(rows)},
        }
    table = {**table, "label": ["cat;tabby", *table["label"][1:]]}
    table["split"] = ["test"] + [""] * (len(clips) - 1)
    return {"store_id": fs.store_id, "features": features, "manifest": table}


def clip_facts(rows: UnitRows) -> Iterator[tuple[str, dict]]:
    for i, clip in enumerate(rows.clip_ids):
        span = slice(int(rows.row_start[i]), int(rows.row_start[i]) + int(rows.row_count[i]))
        yield (
            clip,
            {
                "status": Status(int(rows.status[i])).kind,
                "rows": int(rows.row_count[i]),
                "values": sha256(rows.values[span].astype("<f2").tobytes()).hexdigest(),
                "times": sha256(rows.row_time_ms[span].astype("<i4").tobytes()).hexdigest(),
                "media_sha256": rows.media_sha256[i].tobytes().hex(),
                "detail": rows.detail[i],
            },
        )


def add_garbage(fs: store.Store, visual: store.Feature) -> None:
    """A part that lost its race, torn staging, and a file of some later version."""
    loser = visual.unit_name(["lost.mp4"])
    visual.commit(unit_rows({"lost.mp4": 0}, 257, {"lost.mp4": Status.EMPTY}))
    (fs.path / "commits" / visual.name / f"{loser}.json").unlink()
    (fs.path / "tmp" / "put-0123456789abcdef").write_bytes(b"torn")
    (fs.path / "later").mkdir()
    (fs.path / "later" / "unknown.json").write_text("{}")


def main() -> None:
    archive = HERE / "v1.zarr.tar.gz"
    if archive.exists():
        raise SystemExit(f"{archive} is there, and stays as it is for ever")
    with tempfile.TemporaryDirectory() as folder:
        facts = fill(Path(folder, "v1.zarr"))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=9) as tar:
            tar.add(Path(folder, "v1.zarr"), "v1.zarr", filter=anonymous)
    (HERE / "v1.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    archive.write_bytes(packed.getvalue())


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
