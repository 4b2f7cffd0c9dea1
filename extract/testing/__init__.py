"""Contract suites: tests that encoders, samplers and layouts of anybody's must pass.

    import pytest
    from extract.testing import VisualEncoderContract

    @pytest.mark.parametrize("name", ["my_encoder"], scope="class")
    class TestMine(VisualEncoderContract):
        pass

Names are imported on first use. Suites need pytest; CONTRIBUTING.md has the whole template.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.testing.encoders import (
        AudioEncoderContract,
        EncoderContract,
        StackEncoderContract,
        VisualEncoderContract,
    )
    from extract.testing.layouts import LayoutContract
    from extract.testing.samplers import SamplerContract

__all__ = [
    "AudioEncoderContract",
    "EncoderContract",
    "LayoutContract",
    "SamplerContract",
    "StackEncoderContract",
    "VisualEncoderContract",
]

_HOME = {
    "AudioEncoderContract": "encoders",
    "EncoderContract": "encoders",
    "LayoutContract": "layouts",
    "SamplerContract": "samplers",
    "StackEncoderContract": "encoders",
    "VisualEncoderContract": "encoders",
}

if "pytest" in sys.modules:  # a failure then shows what was compared
    sys.modules["pytest"].register_assert_rewrite(
        *(f"{__name__}.{module}" for module in sorted(set(_HOME.values())))
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
