"""Logistic regression on vectors scaled by the training clips, as the probes share it.

Shapes: V = clips, D = size of a vector, C = classes.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from store.errors import ConfigError

GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularisation tried on the val split
ITERATIONS = 1000

Predict = Callable[[Float[np.ndarray, "_ D"]], Float[np.ndarray, "_ C"]]


def check(plugin: str, c: float) -> None:
    """Refuse settings that do not go together."""
    if not 0 <= c < float("inf"):
        raise ConfigError(f"{plugin}: c={c} is not 0 (chosen on the val split) or more")


def fit(
    x: Float[np.ndarray, "V D"], class_ids: Int[np.ndarray, "V"], classes: int, c: float
) -> tuple[Predict, bool]:
    """Shares of all classes for any vectors, and whether the solver arrived; a class that has no
    clip here gets nothing."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(x)
    known = np.unique(class_ids)
    if len(known) == 1:
        return lambda other: np.eye(classes)[np.full(len(other), known[0])], True
    model: Any = LogisticRegression(C=c, max_iter=ITERATIONS)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scale.transform(x), class_ids)

    def predict(other: Float[np.ndarray, "_ D"]) -> Float[np.ndarray, "_ C"]:
        shares = np.zeros((len(other), classes))
        shares[:, known] = model.predict_proba(scale.transform(other))
        return shares

    return predict, not any(issubclass(one.category, ConvergenceWarning) for one in told)
