"""One episode at a time in numpy, as `benchmarks.scoring` holds the scorer against.

Shapes: N = ways, K = shots, S = N * K, M = queries, D = size of a vector; a list has an array of
each sense.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from learn.fewshot.fusions import Prior
from learn.fewshot.fusions._evidence import EACH_WAY, SHARPNESSES, grid, prior_of_grid

Core = Callable[[np.ndarray, np.ndarray], np.ndarray]  # N K D and M D to answers M


def squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances of every left to every right."""
    return (left**2).sum(-1)[:, None] + (right**2).sum(-1) - 2 * left @ right.T


def prototypes(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The nearest class mean."""
    return squared(query, support.mean(1)).argmin(-1)


def nearest(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The class of the nearest shot."""
    return squared(query, support.reshape(-1, query.shape[1])).argmin(-1) // support.shape[1]


def ridge(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Ridge regression with an intercept, by S x S."""
    x = support.reshape(-1, query.shape[1])
    mean = x.mean(0)
    x = x - mean
    targets = np.repeat(np.eye(len(support)), support.shape[1], axis=0) - 1 / len(support)
    a = np.linalg.solve(x @ x.T + np.eye(len(x)), targets)
    return ((query - mean) @ (x.T @ a)).argmax(-1)


def gda(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Gaussians of one covariance, whose inverse is applied by Woodbury's identity."""
    means = support.mean(1)
    if support.shape[1] == 1:
        return prototypes(support, query)
    middle = support.mean((0, 1))
    left = (support - means[:, None]).reshape(-1, query.shape[1])
    level = (left**2).sum() / (len(left) - 1)
    inner = np.linalg.inv(level * np.eye(len(left)) + left @ left.T)
    m, q = means - middle, query - middle
    w = m - (m @ left.T) @ inner @ left
    return (q @ w.T - (w * m).sum(1) / 2).argmax(-1)


def logistic(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """scikit-learn's."""
    labels = np.repeat(np.arange(len(support)), support.shape[1])
    model = LogisticRegression(C=1.0, max_iter=1000).fit(support.reshape(len(labels), -1), labels)
    return model.predict(query)


CORES: dict[str, Core] = {
    "prototypes": prototypes, "nearest": nearest, "ridge": ridge, "gda": gda,
    "logistic": logistic, "default": ridge,
}  # fmt: skip


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors at length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def placed(name: str, support: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the default head does first: signed roots less the shots' mean, at length 1."""
    if name != "default":
        return support, query
    support, query = (np.sign(x) * np.sqrt(np.abs(x)) for x in (support, query))
    mean = support.mean((0, 1))
    return unit(support - mean), unit(query - mean)


def weights(shots: Sequence[np.ndarray], prior: Prior, log_prior: np.ndarray) -> np.ndarray:
    """How much each sense counts, from shots that are left out in turn."""
    ways, count = shots[0].shape[:2]
    if count == 1:
        return np.array(prior.value)
    truth = np.repeat(np.arange(ways), count)
    behind = []
    for x in shots:
        flat, means = x.reshape(ways * count, -1), x.mean(1)
        scores = -squared(flat, means)
        # Without itself its class's mean is further away, by this factor.
        own = scores[np.arange(len(flat)), truth] * (count / (count - 1)) ** 2
        scores[np.arange(len(flat)), truth] = own
        behind.append(scores - own[:, None])
    mixed = np.tensordot(grid(len(shots)).numpy(), np.stack(behind), 1)  # G S N
    likelihood = np.stack([-np.log(np.exp(t * mixed).sum(-1)).sum(-1) for t in SHARPNESSES], 1)
    posterior = EACH_WAY * likelihood + log_prior[:, None]
    share = np.exp(posterior - posterior.max())
    return (share.sum(1) @ grid(len(shots)).numpy()) / share.sum()


def log_prior(prior: Prior, shots: int) -> np.ndarray:
    """The prior's logarithm on the grid, for so many shots a class."""
    import torch

    from learn.fewshot.fusions._evidence import LEAST_EVEN

    even = torch.tensor([max(LEAST_EVEN, 1 - 2 / shots)])
    return prior_of_grid(prior, even).numpy().reshape(-1)


def answers(
    name: str,
    senses: Sequence[np.ndarray],
    support: np.ndarray,
    query: np.ndarray,
    prior: Prior,
    log_prior: np.ndarray,
) -> np.ndarray:
    """The answers to an episode's queries, by one sense or by the weighted fusion of several."""
    sides = [placed(name, x[support], x[query]) for x in senses]
    if len(sides) > 1:
        sides = [(unit(s), unit(q)) for s, q in sides]
        roots = np.sqrt(weights([s for s, _ in sides], prior, log_prior)).astype(np.float32)
        sides = [
            (
                np.concatenate([r * s for r, (s, _) in zip(roots, sides, strict=True)], -1),
                np.concatenate([r * q for r, (_, q) in zip(roots, sides, strict=True)], -1),
            )
        ]
    return CORES[name](*sides[0])
