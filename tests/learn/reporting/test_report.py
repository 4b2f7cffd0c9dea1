"""`learn.report`: the page stands alone, and what cannot be had is refused."""

import re
from itertools import pairwise

import pytest

import learn
from store.errors import ConfigError, InputError, MissingFile
from tests.learn.reporting.pages import FEW, Page


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
    html, summary = page[0].html, page[1]
    drawings = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
    assert len(drawings) == summary.figures > 10
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
    with pytest.raises(MissingFile, match="`media`"):
        learn.report((runs["heads"],), out, media=(tmp_path / "no",))
    out.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        learn.report((runs["heads"],), out)
    assert out.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "r.html", "torn"]


def test_names_are_text_and_nothing_else(filled, tmp_path):
    import store

    table = store.open(filled).manifest()
    name = {f"class{i:03d}": f"$x_{i}$ <b>舞蹈</b> <script>alert({i})</script>" for i in range(8)}
    rows = zip(
        table.paths, table.clip_ids, table.column("label"), table.column("split"), strict=True
    )
    lines = [f'{p},{c},"{name[label]}",{s}' for p, c, label, s in rows]
    (tmp_path / "m.csv").write_text("\n".join(["path,clip_id,label,split", *lines]))
    scored = learn.run_episodes(filled, **FEW, support=("v",), manifest=tmp_path / "m.csv")
    scored.save(tmp_path / "<b>run")
    learn.report((tmp_path / "<b>run",), tmp_path / "r.html", title="</title><script>1</script>")
    page = Page((tmp_path / "r.html").read_text())
    assert "<script" not in page.html
    assert "<b>" not in page.html
    assert (
        "$x_3$ <b>舞蹈</b> <script>alert(3)</script>"
        in page.rows("Right answers of each class, %, in every result")[3]["class"]
    )
    assert re.search(r"<text[^>]*>\$x_3\$ &lt;b&gt;舞蹈", page.html)
