"""A support for labelling."""

import pytest

import store
from tests.learn.inference.tables import write


@pytest.fixture(scope="session")
def asked(filled, tmp_path_factory):
    """A support of the train split, with labels, and the truth of every clip."""
    table = store.open(filled).manifest()
    truth = dict(zip(table.clip_ids, table.column("label"), strict=True))
    of = dict(zip(table.clip_ids, table.column("split"), strict=True))
    rows = [(clip, truth[clip]) for clip in table.clip_ids if of[clip] == "train"]
    path = tmp_path_factory.mktemp("support") / "support.csv"
    return write(path, ["clip_id", "label"], rows), truth
