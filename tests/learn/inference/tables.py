"""What tests of labelling share: CSV files, and vectors by numpy."""

import csv

import numpy as np

import store


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def vectors(features, ids):
    """The mean row of each clip, by numpy, NaN where there is none."""
    out = []
    for clip in ids:
        rows = features.packed([clip]).values.astype(np.float64)
        out.append(rows.mean(0) if len(rows) else np.full(features.dim, np.nan))
    return np.array(out)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def audio_of(path):
    fs = store.open(path)
    return next(fs[name] for name in fs.features if fs[name].modality == "audio")
