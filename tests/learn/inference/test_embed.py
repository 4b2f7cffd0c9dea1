"""Vectors batch after batch: as many as fit, and the same whatever fits."""

import learn
import store
from learn.inference.embed import embed


def test_batches_change_nothing(filled, asked, tmp_path):
    support, _ = asked
    for name, memory in (("one", 1 << 28), ("many", 1 << 14)):
        learn.predict(filled, support=support, output=tmp_path / name, memory_bytes=memory)
    fs = store.open(filled)
    features = {fs[name].modality: fs[name] for name in fs.features}
    ids = fs.manifest().clip_ids
    assert len(list(embed(features, ids, memory_bytes=1 << 14))) > 10
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()
