"""Labelling 50,000 clips with 1,000 classes, beside plain FAISS on the same vectors.

    python -m benchmarks predict

Plain: `IndexFlatIP.search` for the five best of the same unit vectors. Ours adds the order of ties,
confidences and novelty; the whole command also reads the store, averages rows, fits and calibrates,
and writes the CSV. One thread, processor time, in turns, the best of three.
"""

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits

import learn
from learn.inference.classifier import HEADS, Classifier, Support, fit
from learn.inference.vector_index import Inverted
from store import testing

CLASSES, SHOTS, QUERIES, DIM, TOP = 1000, 5, 50_000, 512, 5


def timed(*calls: Callable[[], Any]) -> list[float]:
    """Processor seconds of each, measured in turns."""
    best = [float("inf")] * len(calls)
    for _ in range(3):
        for i, call in enumerate(calls):
            begun = time.process_time()
            call()
            best[i] = min(best[i], time.process_time() - begun)
    return best


def row(what: str, seconds: float, plain: float, against: str) -> dict[str, Any]:
    return {
        "what": what,
        "value": QUERIES / seconds,
        "unit": "clips/s",
        "ratio": plain / seconds,
        "against": against,
        "goal": None,
    }


def measure() -> Iterator[dict[str, Any]]:
    """Rows for prototypes, clips, an approximate index, and the whole command."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1), TemporaryDirectory() as folder:
        x, queries, class_ids = made_up()
        support = Support(
            vectors=(x,),
            present=(torch.ones(len(x), dtype=torch.bool),),
            class_ids=class_ids,
            classes=CLASSES,
        )
        for head in HEADS:
            classifier = fit(support, head=head)
            yield from against_plain(classifier, queries, f"answers by {head}")
        approximate = fit(support, head="nearest", index=Inverted())
        recall = approximate.index.recall(queries, approximate.neighbours)
        yield from against_plain(
            approximate, queries, f"answers by nearest, ivf, recall {recall:.3f}"
        )
        yield whole_command(Path(folder), fit(support))


def made_up() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit vectors of support and queries around class means."""
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, DIM, generator=rng)
    class_ids = torch.arange(CLASSES).repeat_interleave(SHOTS)
    asked = torch.randint(CLASSES, (QUERIES,), generator=rng)
    x, queries = (
        F.normalize(means[c] + 1.5 * torch.randn(len(c), DIM, generator=rng), dim=-1)
        for c in (class_ids, asked)
    )
    return x, queries, class_ids


def against_plain(
    classifier: Classifier, queries: torch.Tensor, what: str
) -> Iterator[dict[str, Any]]:
    plain = faiss.IndexFlatIP(DIM)
    plain.add(classifier.index.vectors)
    raw = queries.numpy()
    ours, theirs, as_many = timed(
        lambda: classifier.predict(queries, TOP),
        lambda: plain.search(raw, TOP),
        lambda: plain.search(raw, classifier.neighbours),
    )
    size = len(classifier.index)
    yield row(what, ours, theirs, f"FAISS, {TOP} of {size}: {QUERIES / theirs:,.0f} clips/s")
    yield row(
        what, ours, as_many,
        f"FAISS, the {classifier.neighbours} it needs: {QUERIES / as_many:,.0f} clips/s",
    )  # fmt: skip


def whole_command(folder: Path, classifier: Classifier) -> dict[str, Any]:
    """From store to CSV; the same number of clips, classes and numbers."""
    store = testing.fill(
        folder / "store", clips=QUERIES + CLASSES * SHOTS, rows=1, dim=DIM, classes=CLASSES,
        separation=16.0, disjoint=False, clips_per_unit=8192,
    )  # fmt: skip
    manifest = store.manifest()
    with (folder / "support.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "label"])
        labelled = zip(manifest.clip_ids, manifest.column("label"), strict=True)
        writer.writerows([pair for pair, _ in zip(labelled, range(CLASSES * SHOTS), strict=False)])
    plain = faiss.IndexFlatIP(DIM)
    plain.add(classifier.index.vectors)
    raw = made_up()[1].numpy()
    ours, theirs = timed(
        lambda: learn.predict(
            store.path, support=folder / "support.csv", output=folder / "o.csv", mode="v"
        ),
        lambda: plain.search(raw, TOP),
    )
    return row("learn predict, store to CSV", ours, theirs, "FAISS alone")
