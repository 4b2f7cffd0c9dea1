"""What a run gives on val episodes against the stored rows it was trained from, paired.

Both answer the same episodes, in every mode that the run has: the run's vectors by its own head or
by the default head, as do the means of stored rows. In a mode of several senses these are weighed
as answers weigh them, from what is shipped for their encoders; a run's own head sees them joined,
as in its training.

Shapes: V = clips, E = episodes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from learn.fewshot import modes as views
from learn.fewshot.fused import FusedPredictor, pairs_of
from learn.fewshot.fusions import DEFAULT, FAMILY, Fusion
from learn.fewshot.fusions._shipped import Encoder, shipped
from learn.fewshot.heads import Head
from learn.fewshot.heads._transform import known_of
from learn.fewshot.kept import queries_of
from learn.fewshot.statistics import ci95
from learn.fewshot.tasks import Episodes
from learn.models.embedder import Embedder
from learn.training import unseen
from learn.training.dataset import TrainingSetup
from store import plugins

BETTER, SAME, WORSE, NOT_MEASURED = "better", "no difference", "worse", "not measured"
_STREAM = 1  # episodes other than those that chose the epoch


def measure(
    embedder: Embedder, head: Head | None, setup: TrainingSetup, seed: int
) -> dict[str, Any]:
    """Verdicts for every mode and number of shots, and one in all."""
    data, val = setup.data, setup.val
    if val is None:
        return _not_measured("there are no val clips")
    clips = unseen.complete(val.clips, val.counts)
    drawn = unseen.draw(clips, seed + _STREAM)
    if not drawn:
        return _not_measured("too few val clips have labels")
    unit = {n: F.normalize(x, dim=-1).cpu() for n, x in embedder.embed(val.rows).items()}
    stored = {modality: rows.means().cpu() for modality, rows in val.rows.items()}
    known = np.isin(np.unique(np.concatenate([e.classes.ravel() for e in drawn])),
                    np.arange(len(data.clips.classes)))  # fmt: skip
    rows, differences = [], dict[str, list[Float64[np.ndarray, "_"]]]()
    for mode in views.MODES:
        if views.refusal(unit, mode, mode, common=True) or views.refusal(
            stored, mode, mode, common=False
        ):
            continue
        for episodes in drawn:
            ours = _correct(unit, mode, episodes, head, setup.encoders, common=True).mean(1)
            theirs = _correct(stored, mode, episodes, None, setup.encoders, common=False).mean(1)
            differences.setdefault(mode, []).append(ours - theirs)
            rows.append(
                {
                    "mode": mode, "shots": episodes.shots, "ways": episodes.classes.shape[1],
                    "run": float(ours.mean()), "stored": float(theirs.mean()),
                    **_judged(ours - theirs),
                }
            )  # fmt: skip
    by_mode = {mode: _judged(np.concatenate(of_mode)) for mode, of_mode in differences.items()}
    verdicts = [facts["verdict"] for facts in by_mode.values()]
    return {
        "verdict": next((v for v in (WORSE, BETTER) if v in verdicts), SAME),
        "reason": None,
        "classes": "trained on" if known.all() else "some trained on" if known.any() else "unseen",
        "episodes": sum(len(e.indices) for e in drawn),
        "modes": by_mode,
        "results": rows,
    }


def _correct(
    vectors: Mapping[str, Float[Tensor, "V _"]],
    mode: str,
    episodes: Episodes,
    head: Head | None,
    encoders: Mapping[str, Encoder],
    *,
    common: bool,
) -> Float64[np.ndarray, "E M"]:
    """1 for every query that is answered rightly, else 0."""
    senses = views.senses_in(mode, vectors)
    if head is not None or mode in vectors or len(senses) < 2:
        return unseen.correct(vectors, mode, mode, episodes, head, common=common)
    fusion: Fusion = plugins.build(FAMILY, DEFAULT)
    pairs = pairs_of(fusion, {sense: vectors[sense] for sense in senses})
    prior = shipped([encoders[sense] for sense in senses])
    predictor = FusedPredictor(
        head=plugins.build("learn.fewshot.heads", unseen.HEAD), fusion=fusion, pairs=pairs,
        contexts=[known_of(pair.support, pair.modality_dims) for pair in pairs],
        prior_of=lambda _: prior, queries=queries_of([episodes]),
    )  # fmt: skip
    return np.asarray(predictor.predict(episodes) == episodes.targets, np.float64)


def sentence(facts: Mapping[str, Any]) -> str:
    """The verdict in words."""
    if facts["verdict"] == NOT_MEASURED:
        return f"Against stored rows: not measured, {facts['reason']}."
    parts = [
        f"{mode} {of_mode['verdict']} ({100 * of_mode['difference']:+.1f} ± "
        f"{100 * (of_mode['ci95'] or 0):.1f})"
        for mode, of_mode in facts["modes"].items()
    ]
    classes = {"unseen": "classes that training did not see", "trained on": "classes trained on"}
    told = classes.get(facts["classes"], "classes of which training saw some")
    advice = {
        WORSE: " Ask stored rows there, or keep both: stored vectors cost nothing.",
    }.get(facts["verdict"], "")
    return (
        f"Against stored rows: {facts['verdict']}, in percentage points of {facts['episodes']} val "
        f"episodes of {told}: {', '.join(parts)}.{advice}"
    )


def _judged(differences: Float64[np.ndarray, "E"]) -> dict[str, Any]:
    """The mean difference, its interval, and the verdict."""
    mean, half = float(differences.mean()), ci95(differences, "t-ddof1")
    sure = half is not None and abs(mean) > half
    verdict = (BETTER if mean > 0 else WORSE) if sure else SAME
    return {"difference": mean, "ci95": half, "verdict": verdict}


def _not_measured(reason: str) -> dict[str, Any]:
    return {
        "verdict": NOT_MEASURED, "reason": reason, "classes": None, "episodes": 0, "modes": {},
        "results": [],
    }  # fmt: skip
