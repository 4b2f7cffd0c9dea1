"""What is left to do, and what is kept of a clip that kills its decode process."""

import sys

import pytest

import cli
import extract
import store
from extract.media.sampling import Sampling
from extract.pipeline import outputs, unit_encoder
from extract.pipeline.plan import plan
from store import Status
from tests.extract import media_files as media
from tests.extract.fakes import Frames, Windows, quick
from tests.extract.pipeline.test_run import Overflowing, write_manifest


@pytest.mark.parametrize(("dies_of", "kept"), [("sound", "visual"), ("frames", "audio")])
def test_a_stream_that_kills_the_decoder_spares_the_other(tmp_path, monkeypatch, dies_of, kept):
    media.write(tmp_path / "a.mp4", [0, 40], sound=media.tone(1.0))
    manifest = write_manifest(tmp_path, ["a.mp4"])
    monkeypatch.setattr(outputs, "Decoder", lambda *_: media.Dying(dies_of))
    result = quick(manifest, tmp_path / "s", audio=[Windows()])
    statuses = {report.modality: report.counts for report in result.features}
    lost = {"visual": "audio", "audio": "visual"}[kept]
    assert statuses == {kept: {"ok": 1}, lost: {"crash": 1}}
    fs = store.open(tmp_path / "s")
    details = [detail for name in fs.features for detail in fs[name].details(["a.mp4"])]
    assert any("the decoder died" in detail for detail in details)


def test_missing_files_are_tried_again_once_they_are_there(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        media.write(tmp_path / name, [0, 40])
    manifest = write_manifest(tmp_path, ["a.mp4", "b.mp4"])
    (tmp_path / "a.mp4").rename(tmp_path / "away")

    def run():
        (report,) = (result := quick(manifest, tmp_path / "s")).features
        return report.counts, report.new, result.findings

    counts, new, findings = run()
    assert (counts, new) == ({"ok": 1, "missing": 1}, 2)
    assert "the 1 missing are tried again once there is a file" in findings[0]
    assert run()[:2] == ({"ok": 1, "missing": 1}, 0)  # still none
    (tmp_path / "away").rename(tmp_path / "a.mp4")
    assert run()[:2] == ({"ok": 2}, 1)
    assert run()[:2] == ({"ok": 2}, 0)
    fs = store.open(tmp_path / "s")
    assert fs["fake-frames"].status_of(["a.mp4"]).tolist() == [Status.OK]


def test_rows_that_float16_cannot_hold_are_a_finding(tmp_path, monkeypatch):
    pictures = [media.picture(0) // 8] * 2
    media.write(tmp_path / "a.mp4", [0, 40], pictures=pictures)
    manifest = write_manifest(tmp_path, ["a.mp4"])
    monkeypatch.setattr("extract.pipeline.outputs.load_encoder", lambda *_, **__: Overflowing())
    words = ["extract", "run", str(manifest), "--store", str(tmp_path / "s"), "--visual"]
    words.append("efficientnet_lite")  # which it stands for
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.extract_main()
    assert ended.value.code == 1


def test_a_moment_beyond_all_time_is_an_empty_clip(tmp_path):
    media.write(tmp_path / "a.mp4", [0, 40])
    manifest = write_manifest(tmp_path, ["a.mp4"], start_seconds=["1e13"], end_seconds=["1e14"])
    result = quick(manifest, tmp_path / "s", visual=[Frames()], sampling=Sampling(fps=1.0))
    assert result.features[0].counts == {"empty": 1}


def test_a_changed_setting_is_told_before_it_makes_a_second_feature(tmp_path):
    media.write(tmp_path / "a.mp4", [0, 40])
    manifest, said = write_manifest(tmp_path, ["a.mp4"]), []

    def run(**given):
        said.clear()
        return quick(
            manifest, tmp_path / "s", progress=lambda *now: said.append(now[2:3]), **given
        ).notes

    assert run() == []
    assert run() == []  # the same again is none
    assert run(visual=[Frames(), Frames(seed=1)])[0].count("is a second visual feature") == 1
    (note,) = run(sampling=Sampling(fps=2.0))
    assert "sampling.fps was 4 and is 2" in note
    assert "store remove DIR fake-frames-" in note
    assert said[0] == (f"note: {note}",)
    assert run(visual=[], audio=[Windows()]) == []  # of the other modality
    (planned,) = plan(manifest, tmp_path / "s", visual=[Frames()], sampling=Sampling(fps=1.0)).notes
    assert "sampling.fps was" in planned


def test_who_made_an_encoder_is_said_where_it_is_not_ours():
    assert unit_encoder.offered_by(extract.load_encoder("logmel")) == {}
    assert unit_encoder.offered_by(Windows()) == {"encoder": "tests.extract.fakes"}
