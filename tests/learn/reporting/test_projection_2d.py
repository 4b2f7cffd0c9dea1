"""Maps keep what they promise."""

import numpy as np
import pytest

from learn.reporting import projection_2d


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
