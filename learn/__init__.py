"""Turn stored features into knowledge: train projections, answer few-shot questions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learn.data.labels import make_labels
    from learn.data.split import split
    from learn.data.torch_data import ClipDataset, ClipStream, collate, to_torch
    from learn.evaluation.compare import compare
    from learn.evaluation.episodes import run_episodes
    from learn.evaluation.evaluate import run_protocol
    from learn.evaluation.sweep import sweep
    from learn.finetuning.finetune import finetune
    from learn.inference.estimator import FewShotClassifier
    from learn.inference.groups import groups
    from learn.inference.predict import predict
    from learn.inference.search import search
    from learn.reporting.report import report
    from learn.training.recipe import recipes
    from learn.training.train import train

__all__ = [
    "ClipDataset",
    "ClipStream",
    "FewShotClassifier",
    "collate",
    "compare",
    "finetune",
    "groups",
    "make_labels",
    "predict",
    "recipes",
    "report",
    "run_episodes",
    "run_protocol",
    "search",
    "split",
    "sweep",
    "to_torch",
    "train",
]

_HOME = {
    "ClipDataset": "learn.data.torch_data",
    "ClipStream": "learn.data.torch_data",
    "FewShotClassifier": "learn.inference.estimator",
    "collate": "learn.data.torch_data",
    "compare": "learn.evaluation.compare",
    "finetune": "learn.finetuning.finetune",
    "groups": "learn.inference.groups",
    "make_labels": "learn.data.labels",
    "predict": "learn.inference.predict",
    "recipes": "learn.training.recipe",
    "report": "learn.reporting.report",
    "run_episodes": "learn.evaluation.episodes",
    "run_protocol": "learn.evaluation.evaluate",
    "search": "learn.inference.search",
    "split": "learn.data.split",
    "sweep": "learn.evaluation.sweep",
    "to_torch": "learn.data.torch_data",
    "train": "learn.training.train",
}


def __getattr__(name: str) -> Any:
    """The public functions, imported on first use: `import learn` itself costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'learn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
