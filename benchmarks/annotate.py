"""Labels that `learn annotate` asks for until it answers well: chosen actively, against at random.

    MICROSHOT_MEDIA=… python -m benchmarks annotate
    python -m benchmarks.annotate --store DIR --seeds 5 --curves CSV

The 3,543 real sounds (Cnn14, 26 classes of UCF101): of each class 30 % of the sources are put aside
and asked about, the rest is the collection that is labelled. Somebody who knows the truth answers
`batch` clips; then the default head is fitted and the strategy chooses again. The first `batch` are
drawn at random by every strategy, and counted. Reached is 95 % of what the head has on the clips
put aside when all others are labelled, in the mean of three fits in a row, as one fit is noise.

`--store` takes a store with sight, sound or both instead, whose column `--label` is the truth, and
asks about clips that have all senses. Such small collections are reported and have no goal.

As on the page, one clip in eight is drawn whatever the strategy says, and counted too. The page's
estimates are held against the accuracy on the clips that are left where the target is reached:
`checked`, the drawn clips told by the other labels, and `confidence`, its mean.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from benchmarks._table import show
from learn.annotation import strategies
from learn.annotation.estimate import is_due, sample_of, told_right
from learn.annotation.pool import Pool, Source
from learn.annotation.strategies import Candidates, Strategy
from learn.inference.embed import EmbeddedBatch
from learn.inference.examples import Examples
from learn.inference.fitted_head import FittedHead, HeadClassifier, Judge, Labelled
from learn.inference.judges import Judges, judges_of
from learn.inference.selection import NONE, select_one
from store import open as open_store
from store import plugins
from store.exchange.exchange import import_

STRATEGIES = ("random", "margin", "uncertain_diverse")
SHARE, ASIDE, GOAL = 0.95, 0.3, 0.70
SEEDS, BATCH, IN_A_ROW = 5, 5, 3
MEMORY = 4 << 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Collection:
    """Clips with vectors, classes and sources."""

    name: str
    vectors: Mapping[str, Float[Tensor, "V _"]]
    seen: Float[Tensor, "V D"]  # unit vectors, as the strategies get them
    class_ids: Int64[Tensor, "V"]
    groups: Int64[Tensor, "V"]
    judges: Judges

    @property
    def judge(self) -> Judge:
        """What answers about clips of all senses."""
        return self.judges.of(tuple(self.vectors))

    def labelled(self, clips: Int64[Tensor, "_"]) -> Labelled:
        """These clips as shots."""
        return Labelled(
            vectors=self.of(clips),
            present={name: torch.ones(len(clips), dtype=torch.bool) for name in self.vectors},
            class_ids=self.class_ids[clips],
            groups=self.groups[clips],
        )

    def of(self, clips: Int64[Tensor, "_"]) -> dict[str, Tensor]:
        """The vectors of these clips."""
        return {name: x[clips] for name, x in self.vectors.items()}

    def right(
        self, head: FittedHead, clips: Int64[Tensor, "_"], scores: Tensor | None = None
    ) -> float:
        """The share of these clips that the head tells."""
        found = head.scores(self.of(clips)) if scores is None else scores
        return float((head.classes[found.argmax(1)] == self.class_ids[clips]).double().mean())


def numbered(names: Sequence[str]) -> Int64[Tensor, "_"]:
    """Equal numbers for equal names."""
    return torch.from_numpy(np.unique(np.asarray(names), return_inverse=True)[1])


def collection(path: Path, label: str = "label") -> Collection:
    """The clips of a store that have every sense and a label."""
    fs = open_store(path)
    selection = select_one(fs, NONE, None)
    source = Source(
        selection=selection, judges=judges_of(None, None, "on", None, selection.features)
    )
    table = fs.manifest()
    of_clip = dict(zip(table.clip_ids, table.column(label), strict=True))
    clips = [clip for clip in source.all_clips() if of_clip.get(clip)]
    whole = torch.stack(list(source.read(clips).present.values())).all(0).tolist()
    clips = [clip for clip, has in zip(clips, whole, strict=True) if has]
    pool = Pool(source, clips, len(clips), 0)
    batch: EmbeddedBatch = pool.of(clips)
    group = dict(zip(table.clip_ids, table.column("group"), strict=True))
    return Collection(
        name=path.name,
        vectors={part: batch.vectors[part] for part in source.parts},
        seen=pool.seen_as(source.parts, stored=True),
        class_ids=numbered([of_clip[clip] for clip in clips]),
        groups=numbered([group[clip] for clip in clips]),
        judges=source.judges,
    )


def sounds(folder: Path) -> Collection:
    """The 3,543 real sounds as a store."""
    source = Path(os.environ["MICROSHOT_MEDIA"]) / "features_ucf51_cnn14" / "features.npz"
    fs = folder / "sounds"
    import_("npz:values=audio,clip_id=clip,modality=audio,name=cnn14", source, fs)
    return collection(fs)


def put_aside(data: Collection, seed: int) -> Bool[Tensor, "V"]:
    """Clips of three in ten sources of each class, one source at least."""
    rng = np.random.default_rng(seed)
    aside = torch.zeros(len(data.class_ids), dtype=torch.bool)
    for class_id in torch.unique(data.class_ids):
        mine = data.class_ids == class_id
        groups = torch.unique(data.groups[mine]).numpy()
        chosen = rng.permutation(groups)[: max(1, round(ASIDE * len(groups)))]
        aside |= mine & torch.isin(data.groups, torch.from_numpy(chosen))
    return aside


@dataclass(frozen=True, kw_only=True)
class Point:
    """How well the head does with so many labels."""

    clips: int
    asked: float  # accuracy on clips put aside
    left: float  # accuracy on clips that are left
    expected: float | None
    checked: float | None


def simulate(
    data: Collection, name: str, seed: int, batch: int, target: float, *, estimates: bool = True
) -> Iterator[Point]:
    """Points until three in a row reach the target on average, or no clip is left."""
    aside = put_aside(data, seed)
    asked, left = torch.nonzero(aside)[:, 0], ~aside
    strategy: Strategy = plugins.build(strategies.FAMILY, name)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.nonzero(left)[:, 0]
    drawn = drawn[torch.randperm(len(drawn), generator=generator)]
    chosen = torch.zeros(0, dtype=torch.int64)
    margin, temperature, due, reached = None, 0.1, 0, []
    while bool(left.any()):
        rest = torch.nonzero(left)[:, 0]
        if not len(chosen):
            picked = rest[torch.randperm(len(rest), generator=generator)[:batch]]
        else:
            candidates = Candidates(
                vectors=data.seen[rest], labelled=data.seen[chosen], margin=margin
            )
            picked = rest[strategy.pick(candidates, batch, generator)]
        for i in range(len(picked)):
            if is_due(len(chosen) + i):
                free = drawn[left[drawn] & ~torch.isin(drawn, picked)]
                picked[i : i + 1] = free[:1] if len(free) else picked[i : i + 1]
        chosen = torch.cat([chosen, picked])
        left[picked] = False
        rest = torch.nonzero(left)[:, 0]
        shots = data.labelled(chosen)
        if len(torch.unique(shots.class_ids)) < 2:
            continue
        head = FittedHead(data.judge, shots, MEMORY)
        scores = head.scores(data.of(rest)) if len(rest) else torch.zeros(0, 2)
        asked_right = data.right(head, asked)
        reached = [*reached, asked_right][-IN_A_ROW:]
        done = len(reached) == IN_A_ROW and sum(reached) / IN_A_ROW >= target
        checked = None
        if len(chosen) >= due or done:  # leaving out costs ten fits
            temperature = HeadClassifier(data.judge, shots, MEMORY).calibration.temperature
            due = len(chosen) + max(25, len(chosen) // 5)
            checked = _checked(data, shots, chosen, drawn) if estimates else None
        shares = (scores / temperature).softmax(1).topk(min(2, scores.shape[1]), 1).values
        margin = (shares[:, 0] - shares[:, -1]).float() if len(rest) else None
        yield Point(
            clips=len(chosen), asked=asked_right,
            left=data.right(head, rest, scores) if len(rest) else asked_right,
            expected=float(shares[:, 0].mean()) if len(rest) and estimates else None,
            checked=checked,
        )  # fmt: skip
        if done:
            return


def _checked(
    data: Collection, shots: Labelled, chosen: Int64[Tensor, "_"], drawn: Int64[Tensor, "_"]
) -> float | None:
    """The page's estimate on the clips that were drawn."""
    names = [str(clip) for clip in drawn.tolist()]
    sample = list(map(int, sample_of(names, [str(clip) for clip in chosen.tolist()])))
    position = {clip: i for i, clip in enumerate(chosen.tolist())}
    examples = Examples(vectors=shots.vectors, present=shots.present, groups=None)
    where = torch.tensor([position[clip] for clip in sample], dtype=torch.int64)
    if not len(where):
        return None
    right = told_right(data.judges, examples, shots.class_ids, where)
    return float(right.double().mean())


def full(data: Collection, seed: int) -> float:
    """The accuracy on clips put aside when all others are labelled."""
    aside = put_aside(data, seed)
    head = FittedHead(data.judge, data.labelled(torch.nonzero(~aside)[:, 0]), MEMORY)
    return data.right(head, torch.nonzero(aside)[:, 0])


def measure(
    store: Path | None = None, label: str = "label", seeds: int = SEEDS, batch: int = BATCH,
    names: Sequence[str] = STRATEGIES, curves: Path | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for each strategy: labels until 95 % of what all labels give."""
    torch.set_num_threads(1)
    if store is None and "MICROSHOT_MEDIA" not in os.environ:
        yield _row("annotate: MICROSHOT_MEDIA is not set", float("nan"), None, None, None)
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = sounds(Path(scratch)) if store is None else collection(store, label)
    best = [full(data, seed) for seed in range(seeds)]
    base: list[int] = []
    kept: list[tuple[Any, ...]] = []
    for name in names:
        begun, needed, ends = time.perf_counter(), [], []
        for seed in range(seeds):
            points = list(simulate(data, name, seed, batch, SHARE * best[seed]))
            needed.append(points[-1].clips)
            ends.append(points[-1])
            kept += [
                (
                    data.name,
                    name,
                    seed,
                    p.clips,
                    p.asked,
                    p.left,
                    p.expected,
                    p.checked,
                    best[seed],
                )
                for p in points
            ]
        base = base or needed
        seconds = (time.perf_counter() - begun) / seeds
        ratio = sum(needed) / sum(base)
        told = ", ".join(map(str, needed))
        off = [(p.expected or 0) - p.left for p in ends]
        out = [(p.checked or 0) - p.left for p in ends]
        against = (
            f"{names[0]} {np.mean(base):.0f}; by seed {told}; all labels give "
            f"{100 * np.mean(best):.1f} %; of the clips left: checked {100 * np.mean(out):+.1f}, "
            f"confidence {100 * np.mean(off):+.1f} points off; "
            f"{seconds:.0f} s"
        )
        goal = GOAL if store is None and name == strategies.DEFAULT else None
        of_base = None if name == names[0] else ratio
        yield _row(f"annotate, {data.name}, {name}", float(np.mean(needed)), of_base, against, goal)
        if curves is not None:
            _write(curves, kept)


def _row(
    what: str, value: float, ratio: float | None, against: str | None, goal: float | None
) -> dict[str, Any]:
    return {
        "what": what, "value": value, "unit": "labels", "ratio": ratio, "against": against,
        "goal": goal,
    }  # fmt: skip


def _write(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("collection", "strategy", "seed", "labels", "accuracy", "accuracy of the clips left",
             "confidence", "checked", "accuracy of all labels")
        )  # fmt: skip
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="Instead of the real sounds.")
    parser.add_argument("--label", default="label", help="The column that is the truth.")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--batch", type=int, default=BATCH, help="Labels between two fits.")
    parser.add_argument(
        "--names", nargs="+", default=STRATEGIES, help="Strategies; first the base."
    )
    parser.add_argument("--curves", type=Path, metavar="CSV", help="Write every point.")
    show(measure(**vars(parser.parse_args())))
