"""Labels from a few examples: a matrix product's, with honest confidence, whole or absent."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import learn
import store
from learn.data.rows import load_rows
from learn.inference.classifier import HEADS
from store.errors import ConfigError, InputError, MissingFile, UnknownColumn
from tests.learn.inference.tables import audio_of, read, unit, vectors, write


def test_equal_to_a_matrix_product(filled, asked, tmp_path):
    """By sight: clips scored against centred class means, one after the other."""
    support, truth = asked
    result = learn.predict(filled, support=support, output=tmp_path / "o.csv", mode="v", top=8,
                           by="prototypes")  # fmt: skip
    visual = next(f for f in map(store.open(filled).__getitem__, store.open(filled).features)
                  if f.modality == "visual")  # fmt: skip
    names = [row["clip_id"] for row in read(support)]
    x = vectors(visual, names)
    has_rows = ~np.isnan(x[:, 0])
    x, label = unit(x[has_rows]), np.array([truth[n] for n in names])[has_rows]
    classes = sorted(set(label))
    middle = np.mean([x[label == c].mean(0) for c in classes], axis=0)
    prototypes = unit(np.stack([unit(x - middle)[label == c].mean(0) for c in classes]))
    answers = [row for row in read(tmp_path / "o.csv") if row["label_status"] == "answered"]
    asked_of = unit(unit(vectors(visual, [row["clip_id"] for row in answers])) - middle)
    (fitted,) = result.labels[0].calibration.values()
    score = asked_of @ prototypes.T / fitted.temperature
    share = np.exp(score - score.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    order = np.argsort(-share, axis=1)
    assert len(answers) > 150
    for row, ranked, p in zip(answers, order, share, strict=True):
        assert [row[f"label_{k}"] for k in range(1, 9)] == [classes[c] for c in ranked]
        confidence = [float(row[f"label_{k}_confidence"]) for k in range(1, 9)]
        np.testing.assert_allclose(confidence, p[ranked], atol=2e-4)
        assert row["label"] == row["label_1"]


@pytest.mark.parametrize("by", HEADS)
def test_every_clip_outside_the_support_is_answered_by_what_it_has(filled, asked, tmp_path, by):
    support, truth = asked
    result = learn.predict(filled, support=support, output=tmp_path / "o.csv", by=by)
    rows = read(tmp_path / "o.csv")
    in_support = {row["clip_id"] for row in read(support)}
    assert sorted(row["clip_id"] for row in rows) == sorted(set(truth) - in_support)
    modes = {mode: [r for r in rows if r["mode"] == mode] for mode in ("av", "v", "")}
    assert sum(map(len, modes.values())) == len(rows)
    assert all(modes.values())  # some are silent, and some failed
    assert {r["label_status"] for r in modes[""]} == {"no-rows"}
    for mode in ("av", "v"):
        correct = np.mean([r["label"] == truth[r["clip_id"]] for r in modes[mode]])
        assert correct > 0.6, mode
    summary = result.to_dict()["labels"][0]
    assert summary["no-rows"] == len(modes[""])
    assert summary["answered"] == len(rows) - len(modes[""])
    assert {fitted["parts"] for fitted in summary["calibration"]} == {"visual+audio", "visual"}


def test_abstention_is_monotone(filled, asked, tmp_path):
    support, _ = asked
    predictions = []
    for p in (0.0, 0.3, 0.6, 0.9, 0.999):
        output = tmp_path / f"{p}.csv"
        learn.predict(filled, support=support, output=output, mode="v", abstain_below=p)
        rows = [r for r in read(output) if r["mode"]]
        assert all((float(r["label_1_confidence"]) >= p) == (r["label"] != "") for r in rows)
        predictions.append({r["clip_id"] for r in rows if r["label"]})
    assert all(more >= fewer for more, fewer in pairwise(predictions))
    assert len(predictions[0]) > len(predictions[3]) > len(predictions[4])


def test_several_columns_and_a_class_more(filled, asked, tmp_path):
    """Columns do not see each other, a cell may be empty, and a class is added by its rows."""
    support, truth = asked
    rows = [(r["clip_id"], r["label"], r["label"][-1] if i % 2 else "") for i, r in
            enumerate(read(support))]  # fmt: skip
    both = write(tmp_path / "s.csv", ["clip_id", "label", "digit"], rows)
    query = write(tmp_path / "q.csv", ["clip_id"], [[c] for c in sorted(truth, reverse=True)[:60]])
    learn.predict(
        filled, support=both, query=query, labels=("label", "digit"), output=tmp_path / "two"
    )
    learn.predict(filled, support=support, query=query, output=tmp_path / "one")
    double, single = read(tmp_path / "two"), read(tmp_path / "one")
    assert [r["clip_id"] for r in double] == sorted(truth, reverse=True)[:60]
    assert [{k: r[k] for k in single[0]} for r in double] == single
    assert {r["digit"] for r in double if r["mode"]} <= set("01234567")
    fewer = write(tmp_path / "f.csv", ["clip_id", "label"], [r[:2] for r in rows if r[2] != "7"])
    result = learn.predict(filled, support=fewer, query=query, output=tmp_path / "few")
    assert result.labels[0].classes <= 8


def test_a_class_a_clip_cannot_be_calibrated(filled, asked, tmp_path):
    support, _ = asked
    first = {r["label"]: r["clip_id"] for r in reversed(read(support))}
    single = write(tmp_path / "s.csv", ["clip_id", "label"], [(c, n) for n, c in first.items()])
    result = learn.predict(filled, support=single, output=tmp_path / "o.csv", mode="v")
    (fitted,) = result.labels[0].calibration.values()
    assert (fitted.clips, fitted.enough, fitted.apart) == (0, False, "nothing")
    assert fitted.accuracy is None
    assert {r["label_novelty"] for r in read(tmp_path / "o.csv")} == {""}


def test_an_approximate_index_tells_its_recall(filled, asked, tmp_path):
    support, _ = asked
    recall = [
        learn.predict(
            filled,
            support=support,
            output=tmp_path / f"{index}.csv",
            mode="v",
            by="nearest",
            index=index,
        )
        .labels[0]
        .recall
        for index in ("exact", "ivf:cells=40,probes=1", "ivf:cells=40,probes=40")
    ]
    assert recall[0] is None
    assert 0 < recall[1]["visual"] < 0.9
    assert recall[2]["visual"] == 1


def test_what_is_refused_leaves_nothing(filled, asked, tmp_path):
    support, truth = asked
    clip = next(iter(truth))
    typo = write(tmp_path / "t.csv", ["clip_id", "label"], [(clip[:-1], "x")])
    many = write(tmp_path / "m.csv", ["clip_id", "label"], [(clip, "x;y")])
    none = write(tmp_path / "n.csv", ["clip_id", "label"], [(clip, "")])
    output = tmp_path / "o.csv"
    for changed, fault, says in (
        ({"support": typo}, InputError, f"did you mean {clip!r}"),
        ({"support": many}, InputError, "several labels"),
        ({"support": none}, InputError, "fill it in"),
        ({"labels": ("lable",)}, UnknownColumn, "did you mean 'label'"),
        ({"group": "sauce"}, UnknownColumn, "sauce"),
        ({"by": "prototype"}, ConfigError, "did you mean 'prototypes'"),
        ({"index": "ivff"}, ConfigError, "did you mean 'ivf'"),
        ({"mode": "b"}, ConfigError, "no mode"),
        ({"top": 0}, ConfigError, "at least 1"),
        ({"abstain_below": 1.5}, ConfigError, "from 0 to 1"),
        ({"output": tmp_path / "no" / "o.csv"}, MissingFile, "make it first"),
    ):
        with pytest.raises(fault, match=says.replace("(", ".").replace("?", ".")):
            learn.predict(filled, **{"support": support, "output": output, **changed})
    output.write_text("before")
    with pytest.raises(InputError, match=r"o\.csv exists; name a new file"):
        learn.predict(filled, support=support, output=output)
    assert output.read_text() == "before"
    output.unlink()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn.predict(filled, support=support, output=output, progress=stop)
    assert not output.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.csv", "n.csv", "t.csv"]


def test_clips_that_lack_a_modality_in_a_trained_space(filled, asked, tmp_path):
    """A silent clip is judged by sight there too, and never by what a network makes of nothing."""
    support, truth = asked
    run = tmp_path / "run"
    learn.train(filled, "infonce", settings=("optimiser.epochs=1",), run_dir=run)
    learn.predict(filled, support=support, projection=run, output=tmp_path / "both.csv")
    learn.predict(filled, support=support, projection=run, mode="v", output=tmp_path / "v.csv")
    both, sight = read(tmp_path / "both.csv"), read(tmp_path / "v.csv")
    silent = [(b, v) for b, v in zip(both, sight, strict=True) if b["mode"] == "v"]
    assert len(silent) > 10
    assert all({key: b[key] for key in v} == v for b, v in silent)
    result = learn.search(
        filled, next(iter(truth)), projection=run, source="v", target="a", top=480
    )
    with_sound = int(load_rows(audio_of(filled), list(truth)).valid.sum())
    assert len(result.neighbours) == result.looked_at == with_sound < 480


def test_the_commands(filled, asked, tmp_path):
    support, _ = asked
    here = Path(sys.executable).parent / "learn"
    words = [here, "predict", filled, "--support", support, "--top", "2"]
    done = subprocess.run([*words, "-o", tmp_path / "o.csv", "--json"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["output"], done.stderr) == (str(tmp_path / "o.csv"), b"")
    assert list(read(tmp_path / "o.csv")[0]) == [
        "clip_id", "mode", "label", "label_status", "label_novelty", "label_1",
        "label_1_confidence", "label_2", "label_2_confidence",
        *(f"label_weight_{name}" for name in sorted(store.open(filled).features, reverse=True)),
    ]  # fmt: skip
    clip = read(support)[0]["clip_id"]
    bad = subprocess.run([here, "search", filled, clip, "--from", "v", "--to", "a"],
                         capture_output=True, text=True)  # fmt: skip
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error[input]")
    assert bad.stderr.count("\n") == 1


@pytest.mark.skipif(
    not {"MICROSHOT_MEDIA", "MICROSHOT_WEIGHTS"} <= set(os.environ),
    reason="MICROSHOT_MEDIA or MICROSHOT_WEIGHTS is not set",
)
def test_real_clips(tmp_path):
    """Two sources a class are enough to label clips of other sources, as README shows."""
    media, weights = Path(os.environ["MICROSHOT_MEDIA"]), Path(os.environ["MICROSHOT_WEIGHTS"])
    sources = {}
    for row in read(media / "ucf101_av" / "manifest.csv"):
        if row["has_audio"] == "1":
            sources.setdefault(row["label"], {}).setdefault(row["group"], []).append(row["path"])
    chosen = [
        (path, label, group, i < 2)
        for label, groups in list(sources.items())[:4]
        for i, (group, paths) in enumerate(list(groups.items())[:5])
        for path in paths[:2]
    ]
    (tmp_path / "videos").symlink_to(media / "ucf101_av" / "videos")
    manifest = write(tmp_path / "m.csv", ["path", "label", "group"], [c[:3] for c in chosen])
    support = write(tmp_path / "s.csv", ["clip_id", "label"], [c[:2] for c in chosen if c[3]])
    bin_ = Path(sys.executable).parent
    encoders = (
        "--visual", f"mobilenetv2:weights={weights}/mobilenet_v2_int8_dequantised.safetensors",
        "--audio", f"yamnet:weights={weights}/yamnet_int8_dequantised.safetensors",
    )  # fmt: skip
    subprocess.run(
        [bin_ / "extract", "run", manifest, "--store", tmp_path / "fs", *encoders,
         "--follow-links"], check=True, capture_output=True,
    )  # fmt: skip
    result = learn.predict(tmp_path / "fs", support=support, output=tmp_path / "o.csv")
    truth = {path: label for path, label, _, first in chosen if not first}
    rows = read(tmp_path / "o.csv")
    assert {row["clip_id"] for row in rows} == set(truth)
    assert {row["mode"] for row in rows} == {"av"}
    assert result.labels[0].calibration["visual+audio"].apart == "group"
    assert np.mean([row["label"] == truth[row["clip_id"]] for row in rows]) > 0.7  # chance: .25
