"""Logistic regression by scikit-learn, one episode."""

import numpy as np
from sklearn.linear_model import LogisticRegression


def answers(support, query):
    """Newton's method: the default solver stops too early to judge by."""
    ways, shots, _ = support.shape
    judge = LogisticRegression(solver="newton-cg", tol=1e-8, max_iter=1000)
    judge.fit(support.flatten(0, 1).numpy(), np.repeat(np.arange(ways), shots))
    return judge.predict(query.numpy())
