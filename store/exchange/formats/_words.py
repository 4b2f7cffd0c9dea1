"""Word embeddings of class names: `text/*.npy`, a pickled dictionary {name: vector}.

They become one clip `text/<name>` each, of split text and labelled with the name, so that they are
found by name and never by position.

Shapes: D = embedding size.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from store import safe_pickle
from store.errors import InputError
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import gathered, text


def word_tracks(folder: Path, *, trust_pickle: bool) -> Iterator[Track]:
    """One track for each file of word embeddings in a folder."""
    for path in sorted(folder.glob("*.npy")):
        safe_pickle.check_trust(path, trust_pickle)
        yield _track(path)


def _track(path: Path) -> Track:
    where = str(path)
    table = safe_pickle.mapping(safe_pickle.read_npy(path, trust_pickle=True), name=where)
    names = [text(name, where) for name in table]
    vectors = [safe_pickle.array(vector, name=where).reshape(-1) for vector in table.values()]
    if len({vector.size for vector in vectors}) != 1:
        raise InputError(f"{where}: vectors are missing or not of one length")
    cells = {"label": names, "split": ["text"] * len(names)}
    made = gathered([f"text/{name}" for name in names], np.stack(vectors), cells, where)

    def clips() -> Iterator[Clips]:
        yield made

    return Track(
        name=path.stem, modality="text", dim=vectors[0].size, clips=clips, files=(path,)
    )  # fmt: skip
