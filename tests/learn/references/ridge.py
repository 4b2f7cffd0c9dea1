"""Ridge regression on one-hot targets by scikit-learn, one episode."""

import numpy as np
from sklearn.linear_model import RidgeClassifier


def answers(support, query):
    ways, shots, _ = support.shape
    judge = RidgeClassifier(alpha=1.0)
    judge.fit(support.flatten(0, 1).numpy(), np.repeat(np.arange(ways), shots))
    return judge.predict(query.numpy())
