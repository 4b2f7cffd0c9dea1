"""What a training did to classes that it did not see: the same episodes before and after it.

Vectors are means of the rows that `extract run` would make, and the default head answers.

Shapes: V = clips, D = size of a row.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learn.data.clips import Clips
from learn.fewshot import modes
from learn.fewshot.statistics import ci95
from learn.finetuning.protocols import Learner, Stream
from learn.training import unseen

FRAMES = 4  # of a clip, where its moments are not given


def vectors(
    learners: Mapping[str, Learner], stream: Stream, rows: Int64[np.ndarray, "V"]
) -> dict[str, Float[Tensor, "V _"]]:
    """A vector for every clip, from networks at rest."""
    count = max(FRAMES, *(learner.stack for learner in learners.values()))
    shares = stream.looks or tuple((k + 0.5) / count for k in range(count))
    wanted = [(int(row), shares) for row in rows]
    found: dict[str, list[Tensor]] = {modality: [] for modality in learners}
    for learner in learners.values():
        learner.module.eval()
    with closing(stream.read(lambda: iter(wanted))) as clips:
        for clip in clips:
            for modality, learner in learners.items():
                if modality == "visual":
                    assert clip.frames is not None
                    x = torch.from_numpy(np.ascontiguousarray(clip.frames))
                else:
                    assert clip.sound is not None
                    x = torch.from_numpy(np.array(clip.sound))[None]
                found[modality].append(learner.at_rest(x).mean(0).cpu())
    return {modality: torch.stack(of_one) for modality, of_one in found.items()}


def measure(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], clips: Clips, seed: int
) -> list[dict[str, Any]]:
    """Accuracies before and after, and their difference with its interval, for every mode and
    number of shots."""
    rows = []
    for mode in modes.MODES:
        if modes.refusal(before, mode, mode, common=False):
            continue
        for episodes in unseen.draw(clips, seed):
            then, now = (
                unseen.correct(dict(x), mode, mode, episodes, None, common=False).mean(1)
                for x in (before, after)
            )
            rows.append(
                {
                    "mode": mode, "shots": episodes.shots, "ways": episodes.classes.shape[1],
                    "episodes": len(then), "before": float(then.mean()),
                    "after": float(now.mean()), "difference": float((now - then).mean()),
                    "ci95": ci95(now - then, "t-ddof1"),
                }
            )  # fmt: skip
    return rows


def sentence(rows: Sequence[Mapping[str, Any]], validation: str) -> str:
    """The same in words."""
    if not rows:
        return f"On unseen classes: not measured, {validation.removeprefix('none: ')}."
    parts = [
        f"{row['mode']} {row['shots']}-shot {100 * row['before']:.1f} → {100 * row['after']:.1f} % "
        f"({100 * row['difference']:+.1f} ± {100 * (row['ci95'] or 0):.1f})"
        for row in rows
    ]
    return f"On {validation}: {'; '.join(parts)}."
