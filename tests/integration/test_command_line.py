"""Exit codes, one JSON object on stdout, one-line errors, nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cli
from store import plugins, testing
from tests.extract import media_files as media

MAINS = {"extract": cli.extract_main, "store": cli.store_main, "learn": cli.learn_main}


@pytest.fixture
def call(monkeypatch, capsys):
    """`call("learn episodes …")` gives exit code, stdout and stderr, in this process."""

    def run(*words):
        words = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as exit_:
            MAINS[words[0]]()
        streams = capsys.readouterr()
        return exit_.value.code or 0, streams.out, streams.err

    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled") / "store"
    return testing.fill(folder, clips=240, rows=4, dim=16, classes=12).path


def refused(outcome, kind):
    """Exit code 2, nothing on stdout, and one line on stderr that starts with the kind."""
    code, out, err = outcome
    assert (code, out) == (2, ""), err
    assert err.startswith(f"error[{kind}]: "), err
    assert err.count("\n") == 1
    return err


# ── bad input ────────────────────────────────────────────────────────────────────────────────────


def manifest(folder: Path, text: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text)
    return path


ENCODER = ("--visual", "mobilenetv2:untrained")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_sandbox_that_is_none(call, tmp_path, command):
    path = manifest(tmp_path, "path\na.mp4\n")
    words = ("extract", command, path, "--store", tmp_path / "s", *ENCODER, "--sandbox", "of")
    message = refused(call(*words), "config")
    assert "no sandbox 'of'; there are auto, off, require" in message
    assert not (tmp_path / "s").exists()


def test_a_missing_manifest(call, tmp_path):
    out = call("extract", "run", tmp_path / "no.csv", "--store", tmp_path / "s", *ENCODER)
    assert "no.csv" in refused(out, "missing-file")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\na.mp4,x\nb.mp4,y\na.mp4,z\n", "line 4"),
        ("file,label\na.mp4,x\n", "path"),
        ("path,label\n../../a.mp4,x\n/b.mp4,x\n", "line 3"),
        ("path,start_seconds,end_seconds\na.mp4,4,3\n", "line 2"),
        ("", "empty"),
    ],
)
def test_a_bad_manifest_names_every_bad_line(call, tmp_path, text, says):
    path = manifest(tmp_path, text)
    out = call("extract", "run", path, "--store", tmp_path / "s", *ENCODER)
    assert says in refused(out, "manifest")
    assert not (tmp_path / "s").exists()


def test_a_manifest_that_is_no_text(call, tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(bytes(range(256)) * 20)
    refused(call("extract", "run", path, "--store", tmp_path / "s", *ENCODER), "manifest")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("spec", "kind", "says"),
    [
        ("mobilenet2:untrained", "unknown-plugin", "did you mean 'mobilenetv2'?"),
        ("mobilenetv2:untraned", "unknown-setting", "did you mean 'untrained'?"),
        ("mobilenetv2", "weights", "weights=FILE"),
        ("mobilenetv2:weights=nowhere.safetensors", "missing-file", "nowhere.safetensors"),
        ("yamnet:untrained", "config", "audio"),
    ],
)
def test_a_bad_encoder(call, tmp_path, spec, kind, says):
    path = manifest(tmp_path, "path\na.mp4\n")
    out = call("extract", "run", path, "--store", tmp_path / "s", "--visual", spec)
    assert says in refused(out, kind)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "words", [("--fps", "1", "--frames", "4"), ("--fps", "0"), ("--frames", "-1")]
)
def test_a_bad_sampling(call, tmp_path, words):
    path = manifest(tmp_path, "path\na.mp4\n")
    refused(call("extract", "run", path, "--store", tmp_path / "s", *ENCODER, *words), "input")
    assert not (tmp_path / "s").exists()


def test_who_names_no_encoder_gets_those_of_the_install(call, tmp_path):
    media.write(tmp_path / "a.mp4", [0, 40], sound=media.tone(0.5))
    path = manifest(tmp_path, "path\na.mp4\n")
    code, out, talk = call("extract", "run", path, "--store", tmp_path / "s", "--json")
    assert code == 0, talk
    told = json.loads(out)
    assert [f["feature"].rpartition("-")[0] for f in told["features"]] == [
        "efficientnet_lite", "logmel",
    ]  # fmt: skip
    assert "no encoder is named" in told["notes"][0]
    assert "simclrv2" in told["notes"][0]


def test_gpu_asked_and_none_found(call, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    path = manifest(tmp_path, "path\na.mp4\n")
    out = call("extract", "run", path, "--store", tmp_path / "s", *ENCODER, "--device", "cuda")
    assert "CUDA" in refused(out, "config")


def test_too_few_clips_names_the_classes(call, filled):
    err = refused(
        call("learn", "episodes", filled, "--split", "all", "--shots", "900"), "not-enough-clips"
    )
    assert "12" in err
    assert "Lower" in err


def test_an_unknown_column(call, filled):
    out = call("learn", "episodes", filled, "--label", "lable")
    assert "did you mean 'label'" in refused(out, "unknown-column")


def test_an_unknown_head(call, filled):
    out = call("learn", "episodes", filled, "--head", "prototype")
    assert "did you mean 'prototypes'" in refused(out, "unknown-plugin")


@pytest.mark.parametrize("words", [("store", "info"), ("store", "verify"), ("learn", "episodes")])
def test_what_is_no_store(call, tmp_path, words):
    assert "extract run" in refused(call(*words, tmp_path), "not-a-store")


def test_usage_errors_point_to_the_manual(call):
    assert "extract run --help" in refused(call("extract", "run"), "usage")
    assert "extract --help" in refused(call("extract", "rum"), "usage")


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────


def test_our_bug_is_101_with_a_traceback(call, filled, monkeypatch):
    import store

    monkeypatch.setattr(store, "open", lambda path: 1 / 0)
    code, out, err = call("store", "info", filled)
    assert (code, out) == (101, "")
    assert "ZeroDivisionError" in err


def test_ctrl_c_is_130(call, filled, monkeypatch):
    import store

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "open", interrupt)
    code, out, err = call("store", "info", filled)
    assert (code, out) == (130, "")
    assert err.startswith("stopped; ")


def test_json_is_the_only_thing_on_stdout(call, filled):
    code, out, _ = call("store", "info", filled, "--json")
    assert code == 0
    assert json.loads(out)["features"]
    code, out, _ = call("store", "verify", filled, "--json")
    assert code == 0
    assert json.loads(out)["problems"] == []
    code, out, _ = call("learn", "recipes", "--json")
    assert code == 0
    assert json.loads(out)["recipes"]
    code, out, _ = call("extract", "encoders", "--json")
    assert code == 0
    assert "mobilenetv2" in {row["name"] for row in json.loads(out)["encoders"]}


def test_a_report_is_written_once_and_of_runs_only(call, filled, tmp_path):
    words = ("--episodes", "20", "--queries", "3", "--split", "all", "--support", "v")
    assert call("learn", "episodes", filled, *words, "-o", tmp_path / "run")[0] == 0
    page = tmp_path / "page.html"
    code, out, err = call("learn", "report", tmp_path / "run", "-o", page, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary["output"] == str(page)
    assert summary["bytes"] == page.stat().st_size
    assert summary["runs"] == {"episodes": 1, "evaluate": 0, "train": 0}
    again = call("learn", "report", tmp_path / "run", "-o", page)
    assert "exists" in refused(again, "input")
    none = call("learn", "report", tmp_path / "no", "-o", tmp_path / "other.html")
    assert "no directory" in refused(none, "missing-file")
    assert "holds no result" in refused(
        call("learn", "report", filled, "-o", page.with_name("o")), "input"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]


def test_episodes_keep_their_json_contract(call, filled, tmp_path):
    words = ("--episodes", "50", "--queries", "3", "--shots", "1", "--shots", "5", "--split", "all")
    out = call("learn", "episodes", filled, *words, "--json", "-o", tmp_path / "run")
    assert out[0] == 0, out[2]
    result = json.loads(out[1])
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    accuracy = np.load(tmp_path / "run" / "accuracy.npy")
    assert accuracy.mean(1).tolist() == pytest.approx([r["accuracy"] for r in result["results"]])
    again = call("learn", "episodes", filled, *words, "-o", tmp_path / "run")
    assert "exists" in refused(again, "input")
    kept = ("--episodes-file", tmp_path / "run" / "episodes.safetensors", "--split", "all")
    code, text, err = call("learn", "episodes", filled, *kept, "--json")
    assert code == 0, err
    assert json.loads(text)["episodes"]["sha256"] == result["episodes"]["sha256"]
    assert len(result["episodes"]["sha256"]) == 64
    keys = {
        "head", "projection", "support", "query", "ways", "shots", "queries", "episodes",
        "accuracy", "ci95", "ci_method", "clips", "seconds",
    }  # fmt: skip
    assert all(keys <= set(row) for row in result["results"])
    assert {row["shots"] for row in result["results"]} == {1, 5}
    assert {row["support"] for row in result["results"]} == {"v", "a", "av"}


def test_what_episodes_can_be_asked_beside_accuracy(call, filled):
    words = ("--queries", "3", "--split", "all", "--episodes", "30")
    more = ("--drop", "v,a", "--drop-rates", "0,1", "--fill", "zero,ignored", "--inflation")
    code, out, err = call("learn", "episodes", filled, *words, *more, "--support", "v,av", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [row["support"] for row in result["results"]] == ["v", "av"]
    assert len(result["inflation"]) == 2
    points = {(p["dropped"], p["fusion"], p["fill"], p["rate"]) for p in result["missing"]}
    ways = [("early", "zero"), ("late", "zero"), ("late", "ignored")]
    assert points == {(m, *way, rate) for m in "va" for way in ways for rate in (0.0, 1.0)}
    until = ("--until-ci", "0.05", "--max-episodes", "300", "--groups", "strict")
    code, out, err = call("learn", "episodes", filled, *words, *until, "--json")
    assert code == 0, err
    settings = json.loads(out)["episodes"]
    assert (settings["groups"], settings["until_ci"], settings["episodes"] % 30) == (
        "strict",
        0.05,
        0,
    )
    names = [row["name"] for row in json.loads(call("learn", "tasks", "--json")[1])["tasks"]]
    assert names == plugins.names("learn.fewshot.tasks")
    listed = json.loads(call("learn", "heads", "--json")[1])
    assert [row["name"] for row in listed["heads"]] == plugins.names("learn.fewshot.heads")
    assert listed["default"] in listed["versions"]
    names = [row["name"] for row in json.loads(call("learn", "fusions", "--json")[1])["fusions"]]
    assert names == plugins.names("learn.fewshot.fusions")
    imbalanced = call("learn", "episodes", filled, *words, "--task", "imbalanced:alpha=1", "--json")
    assert json.loads(imbalanced[1])["episodes"]["alpha"] == 1, imbalanced[2]
    refused(call("learn", "episodes", filled, "--drop", "a", "--drop-rates", "few"), "usage")
    refused(call("learn", "episodes", filled, "--task", "n_ways"), "unknown-plugin")


def test_tables_fit_eighty_columns(call, filled):
    words = ("--episodes", "20", "--queries", "3", "--shots", "1", "--shots", "5", "--split", "all")
    for command in [("learn", "episodes", filled, *words), ("store", "info", filled)]:
        code, out, err = call(*command)
        assert code == 0, err
        lines = [line for line in out.splitlines() if str(filled) not in line]
        assert max(map(len, lines)) <= 80


def test_the_console_scripts_exist():
    """As installed: instant help, exit code 0, and the manual names every command."""
    for script, main in MAINS.items():
        assert callable(main)
        done = subprocess.run(
            [str(Path(sys.executable).parent / script), "--help"],
            capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Commands" in done.stdout


def test_samplers_are_listed_and_a_typo_is_answered(call, tmp_path):
    code, out, _ = call("extract", "samplers", "--json")
    listed = [row["name"] for row in json.loads(out)["samplers"]]
    assert (code, listed) == (0, plugins.names("extract.media.samplers"))
    manifest = tmp_path / "m.csv"
    manifest.write_text("path\nx.mp4\n")
    for option, wrong in (("--sample", f"{listed[0]}x"), ("--decoder", "vlc")):
        outcome = call(
            "extract", "run", manifest, "--store", tmp_path / "s", option, wrong,
            "--visual", "mobilenetv2:untrained",
        )  # fmt: skip
        assert outcome[0] == 2
        assert wrong in outcome[2]
    assert not (tmp_path / "s").exists()
