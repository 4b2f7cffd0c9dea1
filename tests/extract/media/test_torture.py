"""Odd and broken files, real ones: each has a status, and its frames are those of a full decode.

They lie in $MICROSHOT_MEDIA/torture and are not part of the project. `rows()` gives the table.
"""

import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import cli
import store
from extract.media.clip import Request
from extract.media.decode import Decoder
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import Sandbox
from store import Status
from tests.extract import media_files as media
from tests.extract import reference
from tests.extract.processes.test_pool import children

FOLDER = Path(os.environ.get("MICROSHOT_MEDIA", "")) / "torture"
pytestmark = pytest.mark.skipif(
    not os.environ.get("MICROSHOT_MEDIA"), reason="MICROSHOT_MEDIA is not set"
)
SIDE = 64
# What is neither ok nor absent; frames, then sound.
EXPECTED = {
    "derived/d01_truncated60_moov_first.mp4": ("partial", "partial"),
    "derived/d02_truncated_moov_last.mp4": ("unreadable", "unreadable"),
    "derived/d03_bitflips_mdat.mp4": ("decode-error", "partial"),
    "derived/d24_empty.mp4": ("unreadable", "unreadable"),
    "real/r12_corrupted_h264.mp4": ("partial", "absent"),
    "real/r14_zero_bytes.webm": ("unreadable", "unreadable"),
    "real/r21_no_moov_atom.mp4": ("unreadable", "unreadable"),
    "real/r24_text_renamed.mp4": ("unreadable", "unreadable"),
    "real/r27_nan_rotation_bad_timescale.mp4": ("decode-error", "absent"),
    "real/r28_init_segment_audio_only.mp4": ("absent", "empty"),
    "real/r29_header_only_41s.mp4": ("decode-error", "decode-error"),
    "real/r30_no_streams_262_bytes.mp4": ("unreadable", "unreadable"),
    "real/r32_tiny.avi": ("empty", "absent"),
    "real/r33_one_byte.m4a": ("unreadable", "unreadable"),
    "real/r34_wav_header_only.wav": ("absent", "empty"),
}


def every(footage):
    return np.arange(len(footage.seconds))


def rows(paths, decoders=("pyav", "decord")):
    """A row a file and decoder: what came of it, and how it compares to the full decode."""
    sandbox = Sandbox(readable=tuple({path.parent for path in paths}))
    options = {"workers": 2, "limits": Limits(deadline_seconds=60.0, sandbox=sandbox)}
    asked = [
        Request(
            path=path, limit_seconds=30.0, pick=every, short_sides=(SIDE,),
            sample_rates=(16_000,), decoder=decoder,
        )
        for path in paths
        for decoder in decoders
    ]  # fmt: skip
    ours = process_map(Decoder(), asked, **options)
    for path, full in zip(paths, process_map(reference.every_frame, paths, **options), strict=True):
        for outcome in islice(ours, len(decoders)):
            clip = outcome.value
            row = {
                "path": path, "seconds": outcome.cpu_seconds, "visual": clip.visual.status.kind,
                "audio": clip.audio.status.kind, "detail": clip.visual.detail,
                "sound": clip.audio.detail,
                "frames": 0, "known": 0, "wrong": 0, "difference": 0.0,
            }  # fmt: skip
            seconds, pixels, origin = full.value or ([], None, 0.0)
            if len(seconds) and clip.visual.data:
                row |= compared(clip.visual.data[SIDE], seconds - origin, pixels)
            yield row


def compared(frames, seconds, pixels):
    """Frames of ours that the full decode has too, and those that differ from it."""
    at = np.searchsorted(seconds, frames.seconds - 1e-4)
    known = (at < len(seconds)) & (
        np.abs(seconds[np.minimum(at, len(seconds) - 1)] - frames.seconds) < 1e-3
    )
    apart = np.array(
        [np.abs(frames.pixels[k].astype(int) - pixels[at[k]]).mean() for k in np.flatnonzero(known)]
    )
    return {
        "frames": len(frames.seconds),
        "known": int(known.sum()),
        "wrong": int((apart > 4.0).sum()),
        "difference": float(apart.max(initial=0.0)),
        "missing": int((seconds < 30).sum()) - int(known.sum()),
    }


def fixtures(folder):
    """The odd files that are easily made."""
    plain = media.write(
        folder / "plain.mp4", range(0, 2000, 40), gop=20, pictures=media.noisy(50),
        sound=media.tone(2.0),
    )  # fmt: skip
    made = [
        media.copy_cut(plain, folder / "copy_cut.mp4", 1.0),
        media.copy_cut(plain, folder / "copy_cut_between.mp4", 0.7133),
        media.drop_head(plain, folder / "headless.mkv", 6),
        media.write(folder / "narrow48.mp4", range(0, 400, 40), size=(48, 64)),
        media.write(
            folder / "late.mp4", range(0, 2000, 40), sound=media.tone(1.0), sound_start=1.0
        ),
        media.write(folder / "one.mp4", [0]),
        media.cut_bytes(plain, folder / "cut60.mp4", 0.6),
    ]
    for name, content in (("garbage.mp4", bytes(range(256)) * 40), ("zero.mp4", b"")):
        (folder / name).write_bytes(content)
        made.append(folder / name)
    return made


def files():
    return [FOLDER / path for path in store.read_manifest(FOLDER / "manifest.csv").paths]


def test_frames_are_those_of_a_full_decode(tmp_path):
    paths = [*files(), *fixtures(tmp_path)]
    measured = list(rows(paths))
    assert len(measured) == 2 * len(paths)
    assert [row["path"] for row in measured if row["wrong"]] == []
    # A frame that the full decode does not have would have been made up.
    assert [row["path"] for row in measured if row["known"] < row["frames"]] == []
    by_pyav, by_decord = measured[::2], measured[1::2]
    assert [row["path"] for row in by_pyav if row["difference"]] == []
    assert sum(row["frames"] for row in by_pyav) > 4000
    assert [row["visual"] for row in by_pyav] == [row["visual"] for row in by_decord]
    assert sum(row["detail"].startswith("decord") for row in by_decord) >= 15


def test_every_file_has_a_status_and_the_run_ends(tmp_path, monkeypatch, capsys):
    before = children()
    begun = time.monotonic()
    words = [
        "run", str(FOLDER / "manifest.csv"), "--store", str(tmp_path / "s"), "--frames", "2",
        "--visual", "mobilenetv2:untrained", "--audio", "yamnet:untrained",
        "--deadline-seconds", "20", "--json",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["extract", *words])
    with pytest.raises(SystemExit) as ended:
        cli.extract_main()
    assert ended.value.code == 1
    assert time.monotonic() - begun < 200
    assert children() <= before
    ids = store.read_manifest(FOLDER / "manifest.csv").clip_ids
    fs, kinds = store.open(tmp_path / "s"), {}
    for report in json.loads(capsys.readouterr().out)["features"]:
        assert sum(report["counts"].values()) == len(ids) == 65
        codes = fs[report["feature"]].status_of(list(ids))
        kinds[report["modality"]] = [Status(int(code)).kind for code in codes]
    got = dict(zip(ids, zip(kinds["visual"], kinds["audio"], strict=True), strict=True))
    odd = {k: v for k, v in got.items() if not set(v) <= {"ok", "absent"}}
    assert odd == EXPECTED
