"""Streamed rows are the rows, and a training on them is a training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import learn
import store
from learn.data import streaming
from learn.data.rows import choose_feature, load_rows
from learn.data.streaming import Streamed, blocks_of
from learn.models.embedder import Standardiser
from learn.training.dataset import load_setup
from learn.training.recipe import load
from learn.training.runs import load_run
from store import testing
from store.errors import ConfigError

SMALL = ("optimiser.epochs=3", "projection.hidden=16", "projection.dim_out=8")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Clips of one to nine rows in several parts of the store."""
    path = tmp_path_factory.mktemp("streamed") / "s"
    testing.fill(path, clips=300, rows=9, dim=16, classes=6, disjoint=False, clips_per_unit=40)
    return path


@pytest.fixture
def both(uneven):
    feature = choose_feature(store.open(uneven), "visual", None)
    ids = sorted(feature.clip_ids)
    rows = load_rows(feature, ids)
    return rows, Streamed(feature=feature, ids=ids, counts=rows.counts, bytes_at_once=2000)


def same(ours, theirs):
    return all(map(torch.equal, ours, theirs))


def test_padded_is_what_it_is_in_memory(both):
    rows, stream = both
    rng = np.random.default_rng(0)
    draw = [torch.from_numpy(rng.integers(0, len(rows), 20)) for _ in range(4)]
    for indices in draw:  # nothing held: read for this call
        assert same(stream.padded(indices), rows.padded(indices))
    windows = [np.sort(rng.permutation(len(rows))[:80]) for _ in range(3)]
    for i, window in enumerate(windows):
        stream.hold(window, windows[i + 1] if i < 2 else None)
        for indices in (torch.from_numpy(rng.permutation(window)[:15]), draw[0]):
            assert same(stream.padded(indices), rows.padded(indices))


def test_a_window_is_read_once(both, monkeypatch):
    _, stream = both
    read = []
    monkeypatch.setattr(
        streaming, "load_rows", lambda f, ids: (read.append(len(ids)), load_rows(f, ids))[1]
    )
    windows = [np.arange(0, 100), np.arange(100, 150)]
    stream.hold(windows[0], windows[1])
    for start in range(0, 100, 10):
        stream.padded(torch.arange(start, start + 10))
    stream.hold(windows[1], None)
    stream.padded(torch.arange(110, 120))
    assert read == [100, 50]


def test_sums_over_all_clips_are_what_they_are_in_memory(both):
    rows, stream = both
    torch.testing.assert_close(stream.means(), rows.means())
    assert stream.valid.tolist() == rows.valid.tolist()
    ours, theirs = Standardiser(16), Standardiser(16)
    ours.measure(stream)
    theirs.measure(rows)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_blocks_are_neighbours_and_keep_to_the_memory(uneven):
    fs = store.open(uneven)
    features = {m: choose_feature(fs, m, None) for m in ("visual", "audio")}
    ids = sorted(features["visual"].clip_ids)
    counts = {m: f.locate(ids).rows for m, f in features.items()}
    sizes = sum(counts[m] * streaming.row_bytes(f) for m, f in features.items())
    blocks = blocks_of(features, counts, ids, 32_000)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(ids)))
    assert len(blocks) > 10
    assert all(sizes[block].sum() <= 32_000 / streaming.BLOCKS for block in blocks)
    parts = [len(set(features["visual"].locate([ids[i] for i in b]).part)) for b in blocks]
    assert np.mean(parts) < 1.5


def test_only_what_is_too_large_is_streamed(uneven):
    recipe = load("infonce", SMALL)
    kinds = {}
    for memory in ("1MiB", "20kB"):
        data = replace(recipe.data, memory=memory)
        setup = load_setup(uneven, None, replace(recipe, data=data))
        kinds[memory] = {
            type(rows) for rows in (*setup.data.rows.values(), *setup.val.rows.values())
        }
    assert kinds["1MiB"] != kinds["20kB"] == {Streamed}


def test_a_streamed_training_learns_and_repeats(paired, tmp_path):
    settings = (*SMALL, "data.memory=20kB")
    for name in ("a", "b"):
        learn.train(paired, "infonce", settings=settings, run_dir=tmp_path / name)
    learn.train(paired, "infonce", settings=SMALL, run_dir=tmp_path / "memory")
    weights = {n: (tmp_path / n / "weights.safetensors").read_bytes() for n in ("a", "b", "memory")}
    assert weights["a"] == weights["b"] != weights["memory"]
    events = {
        n: [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("a", "memory")
    }
    first, last = ([e for e in of if e["event"] == "epoch"][-1] for of in events.values())
    assert first["loss"] == pytest.approx(last["loss"], rel=0.2)
    assert load_run(tmp_path / "a").space.outputs == {"visual": 8, "audio": 8}


def test_a_size_nobody_can_read_is_refused(paired, tmp_path):
    with pytest.raises(ConfigError, match="is no size"):
        learn.train(paired, "infonce", settings=("data.memory=lots",), run_dir=tmp_path / "r")
    assert not (tmp_path / "r").exists()
