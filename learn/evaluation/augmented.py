"""What features made for the support are worth: each augmentation paired with none.

Heads answer the same episodes twice: from the shots, and from shots and what an augmentation makes
of them. It learns from classes of the train split that no episode asks about. Modes of one sense
only: what is made is of one modality.

Shapes: V = clips.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from learn.data.clips import splits
from learn.data.evaluation_set import EvaluationSet, load_evaluation_set
from learn.evaluation.benchmark import Benchmark
from learn.evaluation.compared import Compared, context_of, joins
from learn.evaluation.results import Augmented
from learn.fewshot import statistics
from learn.fewshot.augmentations import FAMILY, Augmentation, AugmentedHead, Base
from learn.fewshot.heads import ExtraShotsHead, Head
from learn.fewshot.kept import queries_of
from learn.fewshot.metrics import Predictor, measure
from learn.inference.selection import NONE, vectors_on
from store import Feature, Manifest, plugins
from store.errors import ConfigError, InputError


def base_classes(
    manifest: Manifest, features: Mapping[str, Feature], scored: EvaluationSet, *, split: str,
    label: str,
) -> EvaluationSet:  # fmt: skip
    """Clips of the train split, of classes with two clips or more that nobody asks about.

    Raises:
        InputError: there are less than two such classes.
    """
    if split in ("all", "train") or "train" not in splits(manifest):
        raise InputError(
            "`augment` learns from classes that no episode asks about: the manifest needs a split "
            "'train' beside the one that is scored; make one: learn split MANIFEST -o CSV"
        )
    base = load_evaluation_set(manifest, features, split="train", label=label, group=NONE)
    sizes = np.bincount(base.clips.class_ids, minlength=len(base.clips.classes))
    asked = np.isin(base.clips.classes, scored.clips.classes)
    fit = (sizes > 1) & ~asked
    if fit.sum() < 2:
        raise InputError(
            f"`augment` needs two classes of split 'train' with two clips each that no episode "
            f"asks about; there are {int(fit.sum())}"
        )
    return base.keep(fit[base.clips.class_ids])


def augmented(
    benchmark: Benchmark, specs: tuple[str, ...], base: EvaluationSet, *, seed: int, ci: str
) -> Iterator[Augmented]:
    """A row for every projection, mode of one sense, head, draw and augmentation.

    Raises:
        ConfigError: a head that learns from more than shots.
        InputError: no mode of one sense is asked about.
    """
    built = {spec: plugins.build(FAMILY, spec) for spec in dict.fromkeys(specs)}
    alone = [
        compared
        for compared in benchmark.compared()
        if not joins(compared.cell, benchmark.scored.rows)
    ]
    if not alone:
        raise InputError("`augment` is about modes of one sense; ask for v or a")
    for compared in alone:
        yield from _of_mode(benchmark, compared, built, base, seed, ci)


def _of_mode(
    benchmark: Benchmark,
    compared: Compared,
    built: Mapping[str, Augmentation],
    base: EvaluationSet,
    seed: int,
    ci: str,
) -> Iterator[Augmented]:
    vectors = vectors_on(benchmark.device, base.rows, compared.run)
    (pair,), (seen,) = (compared.pairs(x, None) or [] for x in (compared.vectors, vectors))
    known = Base(vectors=seen.support, class_ids=base.clips.class_ids.astype(np.int64))
    makers = {spec: augmentation.learn(known, seed) for spec, augmentation in built.items()}
    balanced = all(episodes.balanced for episodes in benchmark.draws)
    for spec, head in benchmark.heads[compared.projection].items():
        if isinstance(head, ExtraShotsHead):
            raise ConfigError(
                f"head {spec} learns from more than shots; `augment` makes shots, name another"
            )
        plain = Predictor(
            head=head, pair=pair, context=context_of(pair, seen, balanced, head),
            queries=queries_of(benchmark.draws), memory=benchmark.memory, kept=benchmark.kept,
        )  # fmt: skip
        for episodes in benchmark.draws:
            without = measure(benchmark.scored.clips, episodes, plain).of_episodes
            for name, make in makers.items():
                both: Head = AugmentedHead(head=head, make=make)
                found = measure(
                    benchmark.scored.clips, episodes, replace(plain, head=both)
                ).of_episodes
                yield Augmented(
                    head=spec, projection=compared.projection, support=compared.cell[0],
                    query=compared.cell[1], shots=episodes.sampling()["shots"],
                    episodes=len(episodes), augment=name, plain=float(without.mean()),
                    accuracy=float(found.mean()), gain=float((found - without).mean()),
                    ci95=statistics.ci95(found - without, ci),
                )  # fmt: skip
