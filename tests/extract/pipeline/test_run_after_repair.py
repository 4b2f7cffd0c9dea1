"""What `store repair` sets aside is exactly what the next run does again."""

import numpy as np

import store
from store.upkeep.repair import repair
from store.upkeep.verify import verify
from tests.extract import media_files as media
from tests.extract.fakes import quick

CLIPS = [f"{k}.mp4" for k in range(6)]


def test_only_damaged_units_are_done_again(tmp_path):
    for k, name in enumerate(CLIPS):
        pictures = [media.picture(k + j, 48, 32) for j in range(60)]
        media.write(tmp_path / name, range(0, 600, 40), pictures=pictures, size=(48, 32))
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path\n" + "\n".join(CLIPS) + "\n")
    quick(manifest, tmp_path / "fs", workers=1, clips_per_unit=2)
    fs = store.open(tmp_path / "fs")
    before = fs["fake-frames"].read(CLIPS)
    unit = fs["fake-frames"].unit_name(CLIPS[2:4])
    (shard,) = fs.path.glob(f"data.zarr/*/parts/{unit}-*/values/c/0/0")
    shard.write_bytes(shard.read_bytes()[:-1])
    (pending,) = repair(fs).units
    assert (pending.unit, pending.clips) == (unit, tuple(CLIPS[2:4]))

    assert quick(manifest, fs.path).timings.clips == 2
    again = store.open(fs.path)["fake-frames"]
    assert again.has_unit(unit)
    for values, expected in zip(again.read(CLIPS), before, strict=True):
        np.testing.assert_array_equal(values, expected)
    assert verify(fs, deep=True).problems == []
