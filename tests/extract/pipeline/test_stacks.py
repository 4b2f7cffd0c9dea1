"""Stacks of frames in a run: which frames meet, what their times are, what short clips are told."""

import json

import numpy as np
import pytest
import torch

import extract
import store
from extract.media.clip import Clip, Frames, Stream
from extract.pipeline.batching import items_of
from extract.pipeline.run import run
from extract.pipeline.stacks import lacking, stacked, starts
from extract.pipeline.unit_encoder import UnitEncoder
from extract.weights.choice import frames_per_second
from store import Status
from store.errors import ConfigError

SPEC = "r2plus1d:mc3_18,untrained,narrow=8,side=32"


@pytest.mark.parametrize(
    ("frames", "stack", "hop", "wanted"),
    [
        (1, 16, 16, [0]), (15, 16, 16, [0]), (16, 16, 16, [0]), (17, 16, 16, [0, 1]),
        (48, 16, 16, [0, 16, 32]), (50, 16, 16, [0, 16, 32, 34]), (20, 16, 2, [0, 2, 4]),
        (21, 16, 2, [0, 2, 4, 5]), (40, 4, 20, [0, 20, 36]),
    ],
)  # fmt: skip
def test_where_stacks_begin(frames, stack, hop, wanted):
    assert starts(frames, stack, hop).tolist() == wanted


@pytest.mark.parametrize("frames", range(1, 70))
def test_side_by_side_every_frame_is_in_a_stack(frames):
    found = np.zeros(frames, int)
    for start in starts(frames, 16, 16):
        assert start + 16 <= frames or frames < 16
        found[start : start + 16] += 1
    assert found.min() >= 1


def test_the_last_frame_is_held():
    assert stacked(3, 0, 5).tolist() == [0, 1, 2, 2, 2]
    assert stacked(3, 1, 2).tolist() == [1, 2]
    assert lacking("pyav", 3, 5) == "pyav; 3 of 5 frames of a stack: the last one is held"
    assert lacking("pyav", 5, 5) == "pyav"


def seen(count, side):
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, side, side + 4, 3), np.uint8)
    frames = Frames(pixels=pixels, seconds=np.arange(count) / 15 + 1 / 30)
    return Clip(
        visual=Stream(status=Status.OK, detail="pyav", data={side: frames}),
        audio=Stream(status=Status.ABSENT),
    )


def test_rows_times_and_details_of_a_unit():
    encoder = extract.load_encoder(f"{SPEC},frames=8")
    unit = UnitEncoder(encoder, batch_size=16)
    clips = [seen(n, encoder.short_side) for n in (5, 20)]
    for name, clip in zip("ab", clips, strict=True):
        unit.put(name, clip)
    rows = unit.rows()
    assert rows.row_count.tolist() == [1, 3]
    frames = clips[1].visual.data[encoder.short_side]
    assert rows.row_time_ms.tolist() == [33, *np.round(1000 * frames.seconds[[0, 8, 12]])]
    assert rows.detail == ("pyav; 5 of 8 frames of a stack: the last one is held", "pyav")
    alone = [
        encoder(torch.from_numpy(frames.pixels[start : start + 8])[None]) for start in (0, 8, 12)
    ]
    short = clips[0].visual.data[encoder.short_side].pixels
    held = np.concatenate([short, short[-1:], short[-1:], short[-1:]])
    wanted = torch.cat([encoder(torch.from_numpy(held)[None]), *alone])
    np.testing.assert_allclose(rows.values, wanted.numpy(), rtol=2e-3, atol=2e-3)


def test_a_batch_has_no_more_frames_than_one_of_frames():
    assert items_of(extract.load_encoder(f"{SPEC},frames=8"), 16) == 2
    assert items_of(extract.load_encoder(f"{SPEC},frames=32"), 16) == 1
    assert items_of(extract.load_encoder("mobilenetv2:untrained"), 16) == 16


def test_a_run_looks_at_as_many_frames_as_the_network_was_made_for(plain, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "plain.mp4").write_bytes(plain.read_bytes())
    run(folder, tmp_path / "s", visual=[f"{SPEC},frames=16"])
    fs = store.open(tmp_path / "s")
    (name,) = fs.features
    identity = fs[name].spec.identity
    assert identity["sampling"]["fps"] == 15
    assert identity["stack"] == {"frames": 16, "hop": 16, "short": "held"}
    assert json.dumps(identity)
    with pytest.raises(ConfigError, match=r"r2plus1d 15 and mobilenetv2 1.*give --fps"):
        frames_per_second([SPEC, "mobilenetv2:untrained"])
    run(folder, tmp_path / "s", visual=[f"{SPEC},frames=16,hop=4"])
    fs = store.open(tmp_path / "s")
    assert len(fs.features) == 2
    rows = {fs[n].spec.identity["stack"]["hop"]: fs[n].read(fs[n].clip_ids)[0] for n in fs.features}
    assert {hop: len(found) for hop, found in rows.items()} == {16: 2, 4: 5}  # of 30 frames
    np.testing.assert_allclose(rows[16], rows[4][[0, -1]], rtol=1e-2, atol=1e-2)
