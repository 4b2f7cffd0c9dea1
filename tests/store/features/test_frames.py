"""Features and manifests as tables of pandas and xarray."""

import sys

import numpy as np
import pytest

from store import testing
from store.errors import ConfigError

pandas = pytest.importorskip("pandas")
xarray = pytest.importorskip("xarray")


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return testing.fill(
        tmp_path_factory.mktemp("frames") / "s", clips=60, rows=4, dim=6, classes=5,
        silent_share=0.3, clips_per_unit=16,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["visual", "audio"])
def feature(fs, request):
    return next(f for f in map(fs.__getitem__, fs.features) if f.modality == request.param)


def test_every_row_has_a_line_under_its_clip_and_second(feature):
    table = feature.to_pandas()
    packed = feature.packed()
    np.testing.assert_array_equal(table.to_numpy(), packed.values)
    assert table.index.names == ["clip_id", "seconds"]
    clip = packed.clip_ids[5]
    rows = feature.read([clip])[0]
    if len(rows):
        np.testing.assert_array_equal(table.loc[clip].to_numpy(), rows)
        assert table.loc[clip].index.tolist() == (feature.read_times([clip]) / 1000).tolist()


def test_means_are_those_of_the_rows_and_clips_without_rows_have_none(feature):
    means = feature.to_pandas(rows="mean")
    by_pandas = feature.to_pandas().astype(np.float32).groupby("clip_id").mean()
    assert set(means.index) == set(by_pandas.index)
    np.testing.assert_allclose(means, by_pandas.loc[means.index], rtol=1e-5, atol=1e-6)
    assert len(means) == int(feature.packed().mask.sum())


def test_some_clips_in_the_order_asked_for_and_none(feature):
    ids = [clip for clip in feature.clip_ids if feature.locate([clip]).rows[0]][:3][::-1]
    assert feature.to_pandas(ids, rows="mean").index.tolist() == ids
    assert len(feature.to_pandas([], rows="mean")) == 0
    assert len(feature.to_pandas([])) == 0
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        feature.to_pandas(rows="means")


def test_labels_join_by_clip(fs, feature):
    table = feature.to_pandas(rows="mean").join(fs.manifest().to_pandas()["label"])
    assert table["label"].notna().all()
    assert table["label"].nunique() == 5


@pytest.mark.parametrize("lazy", [False, True])
def test_an_xarray_dataset_is_a_ragged_array_with_the_features_identity(feature, lazy):
    made = feature.to_xarray(lazy=lazy)
    packed = feature.packed()
    np.testing.assert_array_equal(made["values"].to_numpy(), packed.values)
    assert made["row_size"].to_numpy().tolist() == packed.counts.tolist()
    assert made.attrs["feature"] == feature.name
    assert made["clip_id"].to_numpy().tolist() == list(packed.clip_ids)
    means = made["values"].astype("f4").groupby("clip_of_row").mean()
    np.testing.assert_allclose(means, feature.to_pandas(rows="mean"), rtol=1e-5, atol=1e-6)
    assert (made["values"].chunks is not None) == lazy


def test_a_padded_dataset_has_a_mask(feature):
    made = feature.to_xarray(padded=True)
    padded = feature.packed().padded()
    np.testing.assert_array_equal(made["values"], padded.values)
    np.testing.assert_array_equal(made["mask"], padded.mask)
    with pytest.raises(ConfigError, match="cannot be lazy"):
        feature.to_xarray(padded=True, lazy=True)


def test_without_the_library_it_says_what_to_install(feature, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"microshot\[frames\]"):
        feature.to_pandas()
