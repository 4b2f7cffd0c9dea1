import numpy as np

from store.testing import fill


def test_fill_gives_a_store_that_reads_back(tmp_path):
    fs = fill(tmp_path, clips=40, rows=3, dim=8, classes=4)
    feature = fs["synthetic-visual"]
    assert len(feature.clip_ids) == 40
    values, offsets = feature.read(feature.clip_ids)
    assert values.dtype == np.float16
    assert offsets[-1] == len(values)
