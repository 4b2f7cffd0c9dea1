"""Logistic regression on vectors scaled by the training clips, as the probes share it.

Shapes: V = clips, D = size of a vector, C = classes.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularisation tried on the val split
ITERATIONS = 1000

Predict = Callable[[Float[np.ndarray, "_ D"]], Float[np.ndarray, "_ C"]]


def fit(
    x: Float[np.ndarray, "V D"], class_ids: Int[np.ndarray, "V"], classes: int, c: float
) -> tuple[Predict, bool]:
    """A function from vectors to probabilities of classes, 0 for a class without a clip here, and
    whether the solver converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(x)
    known = np.unique(class_ids)
    if len(known) == 1:
        return lambda queries: np.eye(classes)[np.full(len(queries), known[0])], True
    model: Any = LogisticRegression(C=c, max_iter=ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(scale.transform(x), class_ids)

    def predict(queries: Float[np.ndarray, "_ D"]) -> Float[np.ndarray, "_ C"]:
        probabilities = np.zeros((len(queries), classes))
        probabilities[:, known] = model.predict_proba(scale.transform(queries))
        return probabilities

    return predict, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
