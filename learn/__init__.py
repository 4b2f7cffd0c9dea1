"""Turn stored features into knowledge: train projections, answer few-shot questions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learn.comparison import compare
    from learn.evaluate import run_episodes
    from learn.grid import sweep
    from learn.labelling import predict
    from learn.labels import make_labels
    from learn.neighbours import search
    from learn.protocol import run_protocol
    from learn.recipe import recipes
    from learn.reporting.page import report
    from learn.training import train

__all__ = [
    "compare",
    "make_labels",
    "predict",
    "recipes",
    "report",
    "run_episodes",
    "run_protocol",
    "search",
    "sweep",
    "train",
]

_HOME = {
    "compare": "learn.comparison",
    "make_labels": "learn.labels",
    "predict": "learn.labelling",
    "recipes": "learn.recipe",
    "report": "learn.reporting.page",
    "run_episodes": "learn.evaluate",
    "run_protocol": "learn.protocol",
    "search": "learn.neighbours",
    "sweep": "learn.grid",
    "train": "learn.training",
}


def __getattr__(name: str) -> Any:
    """The public functions, imported on first use: `import learn` itself costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'learn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
