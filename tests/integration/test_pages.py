"""The pages of `docs/` that people follow line by line: their blocks run as they stand.

What takes long is run by `make soak`. There the tutorial's outputs are held to what is shown, and
its last part has real clips, where `$MICROSHOT_MEDIA` says where they lie.
"""

import csv
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extract.datasets import synth
from learn.evaluation import config, frozen
from store import testing
from tests.pages import ROOT, blocks, faults, inline, is_run, lines_of, run, unlike

DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in [DOCS / "index.md", DOCS / "tutorial.md", *(DOCS / "howto").glob("*.md")]
)
REAL = "av_composed"  # the folder of media that the tutorial speaks of


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Follow a page in a directory that has what the page supposes."""
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("COLUMNS", "100")

    def follow(page, shown=None):
        run((DOCS / page).read_text(), folder, shown)
        return folder

    follow.folder = folder
    return follow


def rendered(folder, names, seconds=0.5, classes=2):
    """Clips under these names, dealt to as many classes."""
    each = -(-len(names) // classes)
    synth.render(folder / "made", classes=classes, clips=each, seconds=seconds, workers=2)
    made = sorted((folder / "made" / "videos").rglob("*.mp4"))
    for path, name in zip(made, names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(folder / name)
    shutil.rmtree(folder / "made")


def test_the_pages_are_found():
    assert {"index.md", "tutorial.md", "howto/head.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists(page):
    text = (DOCS / page).read_text()
    run_lines = [w for _, kind, body in blocks(text) if kind == "sh" for w in lines_of(body)]
    ours = [words for words in run_lines if words[0] in ("extract", "store", "learn")]
    assert ours
    assert not [fault for words in ours + inline(text) for fault in faults(words)]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_does_not_run_says_why(page):
    left = [b for _, kind, b in blocks((DOCS / page).read_text()) if not is_run(kind, b)]
    assert all(body.startswith("# needs the package index") for body in left)


def test_the_first_minute(follow, monkeypatch):
    monkeypatch.setattr(config, "EPISODES", 200)
    folder = follow("index.md")
    assert (folder / "my_store" / "store.json").is_file()


def test_publish(follow):
    testing.fill(follow.folder / "my_store", clips=60, rows=3, dim=8, classes=3, disjoint=False)
    folder = follow("howto/publish.md")
    for made in ("dataset", "features.h5", "tree", "again/store.json"):
        assert (folder / made).exists(), made


def test_a_head_of_the_page(follow):
    testing.fill(follow.folder / "my_store", clips=120, rows=3, dim=16, classes=6, disjoint=False)
    folder = follow("howto/head.md", shown=True)
    assert (folder / "results").is_dir()


@pytest.mark.soak
def test_my_own_clips(follow):
    named = (DOCS / "howto/own_clips.md").read_text().partition("path,label")[2].split("```")[0]
    names = [line.split(",")[0] for line in named.splitlines()[1:] if line]
    rendered(follow.folder, names)
    folder = follow("howto/own_clips.md")
    assert (folder / "report.html").is_file()


@pytest.mark.soak
def test_3massiv(follow, monkeypatch):
    """Its lists are not ours to have: lists of the same layout, with a few made-up posts."""
    small = replace(
        frozen.PLANS["3massiv-5k"], classes=(4, 2, 2), clips=12, shots=(1, 5), queries=5,
        episodes=50, ways=2,
    )  # fmt: skip
    monkeypatch.setitem(frozen.PLANS, "3massiv-5k", small)
    posts = [str(100 + i) for i in range(8 * 14)]
    rendered(follow.folder, [f"clips/{post}.mp4" for post in posts], classes=8)
    _write_lists(follow.folder / "lists", posts)
    for post in posts:
        (follow.folder / "features" / post).mkdir(parents=True)
        for kind in ("visual", "audio"):
            rows = np.random.default_rng(int(post)).standard_normal((2, 6)).astype(np.float32)
            np.save(follow.folder / "features" / post / f"{kind}_feats.npy", rows)
    folder = follow("howto/3massiv.md")
    assert (folder / "bench" / "ids.json").is_file()
    assert (folder / "report.html").is_file()


def _write_lists(folder, posts):
    """Lists of posts and of concepts, as 3MASSIV has them."""
    folder.mkdir()
    splits = {"train": posts[::2], "val": posts[1::4], "test": posts[3::4]}
    for split, of in splits.items():
        with (folder / f"3massiv_{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            names = ["PostIndex", "Topic", "Emotion", "AudioFormat", "VideoFormat", "Language"]
            table.writerow(names)
            for post in of:
                i = posts.index(post)
                table.writerow([
                    post, f"Concept {i // 14}", f"emotion {i % 3}", f"audio {i % 4}",
                    f"video {i % 2}", ["Hindi", "Tamil", "Telugu"][i % 3],
                ])  # fmt: skip
        with (folder / f"3massiv_concept_{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["post_id", "concept", "concept_id"])
            concepts = [posts.index(post) // 14 for post in of]  # from 9 on, no family has several
            rows = zip(of, concepts, strict=True)
            table.writerows([post, f"Concept {c}", 9 + c] for post, c in rows)


@pytest.mark.soak
def test_a_cluster(follow):
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate with")
    rendered(follow.folder, [f"my_clips/{c}/{i}.mp4" for c in "ab" for i in range(4)])
    folder = follow("howto/cluster.md")
    assert (folder / "my_store" / "store.json").is_file()


@pytest.mark.soak
def test_the_tutorial(follow):
    media = os.environ.get("MICROSHOT_MEDIA")
    if media:
        (follow.folder / "real_clips").symlink_to(Path(media) / REAL)
    else:
        names = [f"real_clips/{kind}/{i:02}.mp4" for kind in "abcdefgh" for i in range(16)]
        rendered(follow.folder, names, classes=8)
    text = (DOCS / "tutorial.md").read_text()
    made, real = text.split("## 8. Real clips")
    run(made, follow.folder, shown=True)
    run(real, follow.folder, shown=bool(media))
    assert (follow.folder / "report.html").is_file()
    assert (follow.folder / "real_answers" / "report.html").is_file()


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("a 1\n…\nc 3", "a 2\nb\nc 4", []),
        ("v     51.6 ± 0.5", "x\nv 49.0 ± 0.4", []),
        ("v     51.6 ± 0.5", "v 41.6 ± 0.5", ["v     51.6 ± 0.5"]),
        ("c\na", "a\nc", ["a"]),
        ("bounded by: enc…", "bounded by: encoder (x 3)", []),
        ("f-1ea09eeff4ee ok", "f-2eb09eeff4ef ok", []),
        ("better", "worse", ["better"]),
    ],
)
def test_what_is_shown_is_held_against_what_is_printed(shown, printed, missing):
    assert unlike(shown, printed) == missing
