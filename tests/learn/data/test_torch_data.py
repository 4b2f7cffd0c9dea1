"""Clips of a store as datasets of torch: nothing lost, nothing twice, nothing made up."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import learn
import store
from store import testing
from store.errors import ConfigError, InputError, UnknownColumn, UnknownFeature


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return testing.fill(
        tmp_path_factory.mktemp("torch") / "s", clips=90, rows=4, dim=6, classes=5,
        silent_share=0.2, failed_share=0.1, disjoint=False, clips_per_unit=16,
    )  # fmt: skip


def feature(fs, modality):
    return next(f for f in map(fs.__getitem__, fs.features) if f.modality == modality)


def test_items_are_the_rows_of_the_store(fs):
    clips = learn.to_torch(fs.path)
    assert len(clips) == 90
    labels = fs.manifest().column("label")
    for modality in ("visual", "audio"):
        own = feature(fs, modality)
        for i in (0, 17, 89, -1):
            item = clips[i]
            rows = own.read([item["clip_id"]])[0]
            np.testing.assert_array_equal(item[modality].numpy(), rows.astype(np.float32))
            times = own.read_times([item["clip_id"]]) / 1000
            np.testing.assert_allclose(item[f"{modality}_seconds"].numpy(), times)
            assert clips.classes[item["label"]] == labels[i]
    with pytest.raises(IndexError):
        clips[90]


def test_batches_are_padded_and_what_is_missing_has_an_empty_mask(fs):
    clips = learn.to_torch(fs, split="train")
    assert 0 < len(clips) < 90
    batch = next(iter(DataLoader(clips, batch_size=len(clips), collate_fn=learn.collate)))
    for modality in ("visual", "audio"):
        counts = feature(fs, modality).locate(batch["clip_id"]).rows
        mask = batch[f"{modality}_mask"]
        assert mask.sum(1).tolist() == counts.tolist()
        assert (batch[modality][~mask] == 0).all()
        assert (counts == 0).any()


def shown(loader):
    batches = list(loader)
    return [clip for batch in batches for clip in batch["clip_id"]], batches


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_stream_gives_every_clip_once_with_its_own_rows(fs, workers):
    stream = learn.to_torch(fs, stream=True, seed=3, memory_bytes=600)
    whole = learn.to_torch(fs)
    at = {clip_id: i for i, clip_id in enumerate(whole.clip_ids)}
    loader = DataLoader(stream, batch_size=7, collate_fn=learn.collate, num_workers=workers)
    ids, batches = shown(loader)
    assert sorted(ids) == sorted(whole.clip_ids)
    assert ids != list(whole.clip_ids)
    for batch in batches[:3]:
        expected = learn.collate([whole[at[clip_id]] for clip_id in batch["clip_id"]])
        for key in ("visual", "audio", "visual_mask", "label", "audio_seconds"):
            assert torch.equal(batch[key], expected[key])


def test_epochs_differ_and_can_be_had_again(fs):
    stream = learn.to_torch(fs, stream=True, seed=3)
    first, second = ([item["clip_id"] for item in stream] for _ in range(2))
    assert first != second
    stream.set_epoch(0)
    assert [item["clip_id"] for item in stream] == first
    stream.set_epoch(1)
    assert [item["clip_id"] for item in stream] == second
    still = learn.to_torch(fs, stream=True)
    assert [i["clip_id"] for i in still] == [i["clip_id"] for i in still]


def test_workers_differ_from_epoch_to_epoch_too(fs):
    """They are copies, which count no passes."""
    stream = learn.to_torch(fs, stream=True, seed=3)
    loader = DataLoader(stream, batch_size=9, collate_fn=learn.collate, num_workers=1)
    torch.manual_seed(0)
    assert shown(loader)[0] != shown(loader)[0]


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_that_stay_have_new_orders_and_hear_of_epochs(fs, context):
    stream = learn.to_torch(fs, stream=True, seed=3)
    loader = DataLoader(
        stream, batch_size=9, collate_fn=learn.collate, num_workers=1, persistent_workers=True,
        multiprocessing_context=context,
    )  # fmt: skip
    assert shown(loader)[0] != shown(loader)[0]
    for epoch in (4, 5):
        stream.set_epoch(epoch)
        assert shown(loader)[0] == [item["clip_id"] for item in stream]


def test_datasets_travel_to_processes_that_are_started_anew(fs):
    for stream in (False, True):
        clips = learn.to_torch(fs, stream=stream)
        again = pickle.loads(pickle.dumps(clips))
        one, two = next(iter(clips)), next(iter(again))
        assert one["clip_id"] == two["clip_id"]
        assert torch.equal(one["visual"], two["visual"])


def test_one_feature_has_all_its_clips_and_no_labels(fs):
    own = feature(fs, "visual")
    clips = learn.to_torch(own)
    assert list(clips.clip_ids) == own.clip_ids
    assert clips[0]["label"] == -1
    assert "audio" not in clips[0]


def test_what_is_not_there_is_told(fs):
    with pytest.raises(UnknownColumn):
        learn.to_torch(fs, label="lable")
    with pytest.raises(UnknownFeature):
        learn.to_torch(fs, visual="nothing")
    with pytest.raises(InputError, match="no clip"):
        learn.to_torch(fs, split="tset")
    with pytest.raises(ConfigError, match="seed"):
        learn.to_torch(fs, seed=1)
    with pytest.raises(ConfigError, match="negative"):
        learn.to_torch(fs, seed=-1, stream=True)
    with pytest.raises(ConfigError, match="negative"):
        learn.to_torch(fs, stream=True).set_epoch(-1)
    assert store.open(fs.path).features
