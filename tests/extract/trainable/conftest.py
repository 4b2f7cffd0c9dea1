"""A few rendered clips, once for all tests of this folder."""

import pytest

from extract.datasets import synth
from store import read_manifest


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainable") / "clips"
    return read_manifest(synth.render(folder, classes=2, clips=2, seconds=0.4, groups=1, workers=1))
