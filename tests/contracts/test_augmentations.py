"""Every augmentation of ours keeps the promises of `Augmentation`."""

import pytest

from learn.testing import AugmentationContract
from store import plugins

FAMILY = "learn.fewshot.augmentations"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestAugmentations(AugmentationContract):
    """Of ours."""
