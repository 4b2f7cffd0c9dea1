"""`learn.report`: what the page says is what the results say."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

import learn
from learn.reporting import plots, projection_2d
from learn.reporting.inputs import gather
from store import testing
from store.errors import ConfigError, InputError, MissingFile

FEW = {"ways": 4, "queries": 3, "episodes": 30}
HEADS = ("prototypes", "ridge", "tim")
MATRIX = {"support": ("v", "a", "av"), "query": ("v", "a", "av")}


@pytest.fixture(scope="module")
def runs(paired, tmp_path_factory):
    """A directory of every kind, all of one store."""
    folder = tmp_path_factory.mktemp("report")
    train = folder / "space"
    learn.train(paired, "infonce", settings=("optimiser.epochs=4",), run_dir=train)
    one = learn.run_episodes(paired, **FEW, shots=(1, 2), heads=HEADS)
    one.save(folder / "heads")
    kept = folder / "heads" / "episodes.safetensors"
    crossed = learn.run_episodes(paired, episodes_file=kept, projections=(train,), **MATRIX)
    crossed.save(folder / "crossed")
    probe = learn.run_protocol(paired, "linear:folds=2", split="test")
    probe.save(folder / "probe")
    return {name: folder / name for name in ("heads", "crossed", "probe", "space")}


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    told = learn.report(tuple(runs.values()), path, map_by="pca")
    return Page(path.read_text()), told


class Page(HTMLParser):
    """A page's tables by caption, its text, and how deep each heading is."""

    def __init__(self, text):
        super().__init__()
        self.html = text
        self.tables, self.text, self.levels, self.ids = [], [], [], []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "table":
            self.tables.append({"rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("th", "td"):
            self.tables[-1]["rows"][-1].append("")
        if tag in ("th", "td", "caption", "style"):
            self.inside = tag

    def handle_endtag(self, tag):
        if tag in ("th", "td", "caption", "style"):
            self.inside = None

    def handle_data(self, data):
        if self.inside in ("th", "td"):
            self.tables[-1]["rows"][-1][-1] += data
        elif self.inside == "caption":
            self.tables[-1]["caption"] = data
        elif self.inside != "style":
            self.text.append(data)

    def rows(self, caption):
        """The first table with that caption, as dictionaries."""
        rows = next(table["rows"] for table in self.tables if table["caption"] == caption)
        return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def result(run):
    return json.loads((run / "result.json").read_text())


def shown(value):
    return "" if value is None else f"{100 * value:.2f}"


def test_accuracies_are_those_of_the_results(page, runs):
    rows = [row for name in ("heads", "crossed") for row in result(runs[name])["results"]]
    found = page[0].rows("Accuracy")
    assert len(found) == len(rows) == 3 * 3 * 2 + 9 * 2
    for cell, row in zip(found, rows, strict=True):
        assert (cell["%"], cell["± 95 %"]) == (shown(row["accuracy"]), shown(row["ci95"]))
        assert cell["result"].startswith(row["head"])
        assert int(cell["shots"]) == row["shots"]
    assert {cell["result"] for cell in found} == {
        *(f"{head} · stored vectors" for head in HEADS), "prototypes · space",
    }  # fmt: skip


def test_the_matrix_holds_every_pair_of_modes(page, runs):
    rows = result(runs["crossed"])["results"]
    found = {
        (c["result"], c["shots"], c["support"], c["query"]): c["%"]
        for c in page[0].rows("Support and query")
    }
    for row in rows:
        key = ("prototypes · space", str(row["shots"]), row["support"], row["query"])
        assert found[key] == shown(row["accuracy"])
    drawings = re.findall(r"<svg(?:(?!</svg>).)*q0-matrix0-title.*?</svg>", page[0].html, re.DOTALL)
    written = re.findall(r">(\d+\.\d)</text>", drawings[0])
    assert written == [f"{100 * row['accuracy']:.1f}" for row in rows if row["shots"] == 1]


def test_classes_and_confusions_are_those_of_the_answers(page, runs):
    told = json.loads((runs["heads"] / "answers.json").read_text())
    rows = result(runs["heads"])["results"]
    table = page[0].rows("Right answers of each class, %, in every result")
    by_class = {row["class"]: row for row in table}
    for row, of in zip(rows, told, strict=True):
        column = f"{row['head']} · stored vectors {row['support']} {row['shots']}-shot"
        for one in of["classes"]:
            assert by_class[one["name"]][column] == shown(one["right"] / one["asked"])
    first = next(
        of for row, of in zip(rows, told, strict=True)
        if (row["shots"], row["support"], row["head"]) == (2, "a", "prototypes")
    )  # fmt: skip
    worst = first["confusions"][0]
    assert (
        f"{worst['truth']} taken for {worst['answer']} : {worst['times']} of {worst['of']} "
        f"({100 * worst['times'] / worst['of']:.1f} %)" in page[0].words
    )
    for clip in worst["clips"]:
        assert f"{clip['clip_id']} , {clip['times']} times" in page[0].words


def test_epochs_are_those_of_the_metrics(page, runs):
    lines = (runs["space"] / "metrics.jsonl").read_text().splitlines()
    epochs = [event for event in map(json.loads, lines) if event["event"] == "epoch"]
    found = page[0].rows("Epochs")
    assert len(found) == len(epochs) == 4
    for cell, epoch in zip(found, epochs, strict=True):
        assert cell["loss"] == f"{epoch['loss']:.4g}"
        assert cell["validation loss"] == f"{epoch['val_loss']:.4g}"


def test_metrics_are_those_of_the_protocol(page, runs):
    told = json.loads((runs["probe"] / "evaluation.json").read_text())
    found = page[0].rows("Metrics, shares in %")
    for cell, row in zip(found, told["results"], strict=True):
        assert cell["top1"] == shown(row["metrics"]["top1"])
        assert cell["macro_f1"] == shown(row["metrics"]["macro_f1"])
        assert cell["clips"] == str(row["clips"])


def test_the_map_holds_every_clip(page, runs):
    places = page[0].rows("Places")
    clips = result(runs["heads"])["episodes"]["clips"]
    assert len(places) == clips * (3 + 2)  # v, a, av; and a space's two modalities
    assert {place["projection"] for place in places} == {"stored vectors", "space"}


def test_provenance_names_every_run(page, runs):
    found = {row["run"]: row for row in page[0].rows("Runs")}
    assert set(found) == set(runs)
    digest = result(runs["heads"])["episodes"]["sha256"]
    assert digest.startswith(found["heads"]["digest"])
    assert len(found["heads"]["digest"]) == 16
    assert found["heads"]["digest"] == found["crossed"]["digest"]


def test_the_page_stands_alone(page):
    html = page[0].html
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html
    assert not re.search(r"<(script|iframe|object|embed|audio|video)|@import|\bon\w+=", html)
    addresses = re.findall(r'(?:src|href|action|data)="([^"]*)"', html)
    assert all(a.startswith(("#", "data:")) for a in addresses)
    assert all(a.startswith("#") for a in re.findall(r"url\(([^)]*)\)", html))
    assert len(page[0].ids) == len(set(page[0].ids))
    assert {a[1:] for a in addresses if a.startswith("#")} <= set(page[0].ids)


def test_every_drawing_has_a_name_and_a_table_and_headings_go_down_by_one(page):
    html, told = page[0].html, page[1]
    drawings = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
    assert len(drawings) == told["figures"] > 10
    for svg in drawings:
        assert 'role="img"' in svg
        named = re.search(r'aria-labelledby="(\S+) (\S+)"', svg)
        assert re.search(rf'<title id="{named[1]}">[^<]+</title>', svg)
        assert re.search(rf'<desc id="{named[2]}">[^<]{{20,}}</desc>', svg)
    for block in html.split("<h3>")[1:]:
        if "<svg" in block:
            assert "<table>" in block, block[:40]
    levels = page[0].levels
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_the_same_runs_give_the_same_bytes(page, runs, tmp_path):
    learn.report(tuple(runs.values()), tmp_path / "again.html", map_by="pca")
    assert (tmp_path / "again.html").read_text() == page[0].html


def test_what_is_missing_and_what_mixing_adds(paired, filled, tmp_path):
    from learn.evaluation.missing_modality import Drop

    dropped = learn.run_episodes(paired, **FEW, support=("av",), drop=Drop(modes=("a",)))
    dropped.save(tmp_path / "dropped")
    learn.run_episodes(filled, **FEW, support=("v",), inflation=True).save(tmp_path / "mixed")
    learn.report((tmp_path / "dropped", tmp_path / "mixed"), tmp_path / "r.html", map_by="none")
    found = Page((tmp_path / "r.html").read_text())
    points = result(tmp_path / "dropped")["missing"]
    for cell, point in zip(found.rows("Missing modality"), points, strict=True):
        assert cell["%"] == shown(point["accuracy"])
        assert (cell["fusion"], cell["fill"]) == (point["fusion"], point["fill"])
        assert float(cell["of queries, %"]) == 100 * point["rate"]
    (added,) = result(tmp_path / "mixed")["inflation"]
    (cell,) = found.rows("Sources apart and mixed")
    assert cell["points"] == f"{100 * added['inflation']:+.2f}"
    assert (cell["apart, %"], cell["mixed, %"]) == (shown(added["guarded"]), shown(added["mixed"]))


# ── stamps ───────────────────────────────────────────────────────────────────────────────────────


def test_what_two_directories_repeat_is_told_once(paired, runs, tmp_path):
    kept = runs["heads"] / "episodes.safetensors"
    again = learn.run_episodes(paired, episodes_file=kept, support=("v",), heads=("ridge", "tim"))
    again.save(tmp_path / "again")
    one, both = gather((runs["heads"],)), gather((runs["heads"], tmp_path / "again"))
    assert len(both.questions[0].rows) == len(one.questions[0].rows)
    assert len(both.questions[0].results) == 2


def test_no_stamp_without_a_reason(filled, tmp_path):
    learn.run_episodes(filled, **FEW, support=("v",)).save(tmp_path / "plain")
    told = learn.report((tmp_path / "plain",), tmp_path / "r.html", map_by="none")
    assert told["stamps"] == ["pre-training"]


def test_every_stamp_has_its_reason(paired, filled, runs, tmp_path):
    learn.run_episodes(filled, **FEW, support=("v",), group="none").save(tmp_path / "mixed")
    own = {"split": "train", "projections": (runs["space"],), "support": ("v",)}
    learn.run_episodes(paired, **FEW, **own).save(tmp_path / "own")
    changed = tmp_path / "random"
    shutil.copytree(runs["heads"], changed)
    told = result(changed)
    told["results"][0]["untrained"] = True
    (changed / "result.json").write_text(json.dumps(told))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs["space"], unfinished)
    (unfinished / "done.json").unlink()
    metrics = unfinished / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"event": "epo')

    def stamps(*paths):
        out = tmp_path / "r.html"
        out.unlink(missing_ok=True)
        found = learn.report(paths, out, map_by="none")["stamps"]
        assert Page(out.read_text()).html.count("<strong>") >= len(found)
        return set(found) - {"pre-training"}

    assert stamps(tmp_path / "mixed") == {"groups-ignored"}
    assert stamps(tmp_path / "own") == {"seen-in-training", "groups-ignored"}
    assert stamps(runs["heads"]) == {"transductive", "groups-ignored"}
    assert stamps(changed) == {"untrained", "transductive", "groups-ignored"}
    assert stamps(unfinished) == {"unfinished"}
    assert stamps(runs["space"]) == set()


# ── what cannot be had ───────────────────────────────────────────────────────────────────────────


def test_other_episodes_of_the_same_clips_are_refused(paired, runs, tmp_path):
    learn.run_episodes(paired, **FEW, shots=(1,), seed=1).save(tmp_path / "other")
    with pytest.raises(InputError, match="--episodes-file"):
        learn.report((runs["heads"], tmp_path / "other"), tmp_path / "r.html")
    # Other numbers of shots are another draw, and belong in the same drawing.
    learn.run_episodes(paired, **FEW, shots=(3,)).save(tmp_path / "more")
    assert len(gather((runs["heads"], tmp_path / "more")).questions) == 1
    # Another number of ways is another question.
    learn.run_episodes(paired, **{**FEW, "ways": 2}, shots=(1,)).save(tmp_path / "ways")
    known = gather((runs["heads"], tmp_path / "ways"))
    assert [question.sampling["ways"] for question in known.questions] == [4, 2]


def test_what_is_no_run_is_refused(runs, tmp_path):
    out = tmp_path / "r.html"
    (tmp_path / "empty").mkdir()
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "evaluation.json").write_text('{"results": [{}], "data": {}}')
    with pytest.raises(MissingFile, match="nowhere"):
        learn.report((tmp_path / "nowhere",), out)
    with pytest.raises(InputError, match="holds no result"):
        learn.report((tmp_path / "empty",), out)
    with pytest.raises(InputError, match="learn evaluate"):
        learn.report((torn,), out)
    with pytest.raises(ConfigError, match="tsne"):
        learn.report((runs["heads"],), out, map_by="tnse")
    with pytest.raises(MissingFile, match="make it first"):
        learn.report((runs["heads"],), tmp_path / "no" / "r.html")
    with pytest.raises(MissingFile, match="--media"):
        learn.report((runs["heads"],), out, media=(tmp_path / "no",))
    out.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        learn.report((runs["heads"],), out)
    assert out.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "r.html", "torn"]


def test_a_store_that_is_gone_costs_the_map_only(tmp_path):
    store = tmp_path / "store"
    testing.fill(store, clips=160, rows=2, dim=8, classes=8)
    learn.run_episodes(store, **{**FEW, "ways": 2}, split="all").save(tmp_path / "run")
    store.rename(tmp_path / "elsewhere")
    told = learn.report((tmp_path / "run",), tmp_path / "r.html")
    assert any(note.startswith("No map of stored vectors") for note in told["notes"])
    (tmp_path / "run" / "answers.json").unlink()
    told = learn.report((tmp_path / "run",), tmp_path / "s.html")
    assert any("before answers were kept" in note for note in told["notes"])


def test_names_are_text_and_nothing_else(filled, tmp_path):
    import store

    table = store.open(filled).manifest()
    name = {f"class{i:03d}": f"$x_{i}$ <b>舞蹈</b> <script>alert({i})</script>" for i in range(8)}
    rows = zip(
        table.paths, table.clip_ids, table.column("label"), table.column("split"), strict=True
    )
    lines = [f'{p},{c},"{name[label]}",{s}' for p, c, label, s in rows]
    (tmp_path / "m.csv").write_text("\n".join(["path,clip_id,label,split", *lines]))
    found = learn.run_episodes(filled, **FEW, support=("v",), manifest=tmp_path / "m.csv")
    found.save(tmp_path / "<b>run")
    learn.report((tmp_path / "<b>run",), tmp_path / "r.html", title="</title><script>1</script>")
    page = Page((tmp_path / "r.html").read_text())
    assert "<script" not in page.html
    assert "<b>" not in page.html
    assert (
        "$x_3$ <b>舞蹈</b> <script>alert(3)</script>"
        in page.rows("Right answers of each class, %, in every result")[3]["class"]
    )
    assert re.search(r"<text[^>]*>\$x_3\$ &lt;b&gt;舞蹈", page.html)


def test_pictures_are_of_the_confused_clips_that_are_there(paired, runs, tmp_path):
    told = json.loads((runs["heads"] / "answers.json").read_text())
    place = [(r["shots"], r["head"]) for r in result(runs["heads"])["results"]]
    shown = told[place.index((2, "prototypes"))]["confusions"]
    first = shown[0]["clips"][0]["clip_id"]
    (tmp_path / first).write_bytes(b"")
    asked = []

    def thumbnails(media):
        asked.extend(media)
        return [b"\xff\xd8jpeg"]

    out = tmp_path / "r.html"
    learn.report((runs["heads"],), out, map_by="none", media=(tmp_path,), thumbnails=thumbnails)
    (one,) = asked
    assert (one.root, one.path, one.start_seconds) == (tmp_path, first, 0.0)
    assert len({clip["clip_id"] for pair in shown for clip in pair["clips"]}) > 1
    html = out.read_text()
    assert "data:image/jpeg;base64,/9hqcGVn" in html
    assert "have no picture" in html


# ── drawings and maps ────────────────────────────────────────────────────────────────────────────


def test_drawings_take_the_colours_of_the_page():
    drawn = [plots.Line(name="a", x=(1.0, 5.0), y=(0.2, 0.4), half=(0.01, None))]
    several = [
        plots.lines("k", "T", "D", drawn, x_label="x", y_label="y", marks=(2.0,)),
        plots.matrix(
            "m", "T", "D", ["v"], ["v", "a"], {("v", "v"): (0.5, 0.1)}, row_label="r",
            column_label="c", lowest=0.2,
        ),
        plots.bars("b", "T", "D", ["x", "y"], {"v": [0.5, None], "a": [1.0, 0.0]}, x_label="x"),
        plots.scatter("s", "T", "D", np.eye(2), ["x", "y"], ["v", "a"]),
    ]  # fmt: skip
    for one in several:
        assert not re.search(r"#[0-9a-fA-F]{6}\b|rgb\(", one.svg)
        assert "var(--ink)" in one.svg or "var(--s0)" in one.svg
        assert set(re.findall(r"--\w+", one.svg)) <= {
            "--ink", "--muted", "--grid", "--paper", *(f"--s{i}" for i in range(plots.SERIES)),
        }  # fmt: skip


def test_maps_keep_what_they_promise():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)) * np.array([9, 5, 1, 1, 1, 1])
    flat, kept = projection_2d.flat(x, "pca")
    centred = x - x.mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(flat), np.abs(centred @ vt[:2].T), atol=1e-9)
    assert kept == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())
    x[:20, 3] += 60
    flat, kept = projection_2d.flat(x, "tsne")
    assert kept is None
    near = np.linalg.norm(flat[:, None] - flat[None], axis=-1) + np.eye(40) * 1e9
    assert ((near.argmin(1) < 20) == (np.arange(40) < 20)).all()
    again, _ = projection_2d.flat(x, "tsne")
    np.testing.assert_array_equal(flat, again)
    assert projection_2d.flat(x[:2], "tsne")[0].shape == (2, 2)
    assert projection_2d.flat(x[:, :1], "pca")[0].shape == (40, 2)


def test_episodes_of_other_shapes_are_reported_without_chance(filled, tmp_path):
    for task in ("any_way_any_shot", "imbalanced"):
        found = learn.run_episodes(
            filled, task=task, queries=4, episodes=20, heads=("prototypes",), support=("v",)
        )
        found.save(tmp_path / task)
    out = tmp_path / "r.html"
    learn.report((tmp_path / "any_way_any_shot", tmp_path / "imbalanced"), out, map_by="none")
    uneven, even = Page(out.read_text()).html.split("</h2>")[2:4]
    assert "task any_way_any_shot" in uneven
    assert "task imbalanced" in even
    assert "chance is" in even
    assert "chance is" not in uneven


def test_what_is_no_accuracy_is_not_called_so(tmp_path):
    import store

    testing.fill(tmp_path / "s", clips=300, rows=2, dim=8, classes=12)
    few = {"episodes": 20, "queries": 3, "support": ("v",)}
    found = learn.run_episodes(tmp_path / "s", task="generalised", ways=2, **few)
    found.save(tmp_path / "both")
    clips = store.open(tmp_path / "s").manifest().clip_ids
    lines = [f"{c},{c},a{i % 4};b{i % 3}" for i, c in enumerate(clips)]
    (tmp_path / "m.csv").write_text("\n".join(["path,clip_id,label", *lines]))
    several = {"task": "multi_label", "manifest": tmp_path / "m.csv", "ways": 3}
    learn.run_episodes(tmp_path / "s", **several, **few).save(tmp_path / "several")
    learn.report((tmp_path / "both", tmp_path / "several"), tmp_path / "r.html", map_by="pca")
    both, several = Page((tmp_path / "r.html").read_text()).html.split("</h2>")[2:4]
    assert "Harmonic mean against shots" in both
    assert "mAP against shots" in several
    (row,) = result(tmp_path / "both")["results"]
    (cell,) = Page(both).rows("Harmonic mean")
    assert cell["%"] == shown(row["accuracy"])
    assert f"unseen {shown(row['parts']['unseen'])}" in cell["notes"]
    assert "a1;b2" in several  # on the map
    assert "chance" not in several
