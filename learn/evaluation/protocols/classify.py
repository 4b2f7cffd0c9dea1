"""A run's own head: what the classifier that was trained with the projection says.

Of several modalities it is the head's answer on their one vector where the network or the objective
makes it, else the mean of what it says of each. Runs of one store side by side are an ablation: one
with local attention against one with global, say.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from learn.evaluation import metrics
from learn.evaluation.protocols import Finding, Material, answers_of, positions
from learn.fewshot.modes import MODES, senses_in
from learn.training.own_head import class_shares
from store.errors import InputError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the protocol `classify`."""

    pass


class Classify:
    """The run's own classifier on the scored clips."""

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""
        for label in material.labels:
            scored = material.evaluation_set(material.split, label)
            for projection, run in material.runs.items():
                if run is None:
                    raise InputError(
                        "stored features have no head of their own; name a run with "
                        "`projections`, or use `protocol` linear"
                    )
                known = positions(scored.clips.classes, run.classes)[scored.clips.class_ids]
                if (known < 0).all():
                    raise InputError(
                        f"{projection} was trained on none of the classes of split "
                        f"{material.split!r} in column {label!r} (first: "
                        f"{scored.clips.classes[0]!r}); score a split of its classes, or ask "
                        "learn episodes"
                    )
                kept, class_ids = scored.keep(known >= 0), known[known >= 0]
                by_output = class_shares(run, kept.rows)
                by_mode = {name: p for name, p in by_output.items() if name in MODES}
                for mode, of in MODES.items():  # of several outputs their mean
                    if mode not in by_mode and set(of) <= set(by_output):
                        parts = [by_output[sense] for sense in senses_in(mode, by_output)]
                        by_mode[mode] = torch.stack(parts).mean(0)
                asked = list(dict.fromkeys((*material.support, *material.query)))
                for mode in asked or [mode for mode in MODES if mode in by_mode]:
                    if mode not in by_mode:
                        raise InputError(
                            f"{projection} classifies {', '.join(sorted(by_mode))}, not {mode}"
                        )
                    values, each = metrics.classification(
                        by_mode[mode].double().numpy(), class_ids, run.classes
                    )
                    unknown = int((known < 0).sum())
                    yield material.finding(
                        kept, projection, (mode, mode), values, label=label, classes=each,
                        about={"clips_of_unknown_classes": unknown} if unknown else {},
                        answers=answers_of(by_mode[mode].double().numpy(), class_ids, run.classes),
                    )  # fmt: skip


def build(config: Config) -> Classify:
    """The protocol that these settings describe."""
    return Classify()
