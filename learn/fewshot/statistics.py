"""95 % confidence intervals of a mean accuracy over episodes.

    t-ddof1        Student's t times the standard error with n - 1 (LibFewShot, ARN)
    normal-ddof0   1.96 times the standard error with n (SimpleShot, TRX, MetaAudio)

Shapes: E = episodes.
"""

import numpy as np
from jaxtyping import Float

from store.errors import ConfigError, choices

METHODS = ("t-ddof1", "normal-ddof0")


def check(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        ConfigError: `method` is none of `METHODS`.
    """
    if method not in METHODS:
        raise ConfigError(f"no interval {method!r}; there are {choices(method, METHODS)}")


def ci95(values: Float[np.ndarray, "E"], method: str) -> float | None:
    """Half the width of the interval; None where one episode leaves it undefined."""
    check(method)
    n = len(values)
    if method == "normal-ddof0":
        return float(1.96 * values.std(ddof=0) / np.sqrt(n))
    if n < 2:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n))
