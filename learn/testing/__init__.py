"""Contract suites: tests that heads, objectives and the like of anybody's must pass.

    import pytest
    from learn.testing import HeadContract

    @pytest.mark.parametrize("name", ["my_head"], scope="class")
    class TestMine(HeadContract):
        pass

Names are imported on first use. Suites need pytest; CONTRIBUTING.md has the whole template.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learn.testing.augmentations import AugmentationContract
    from learn.testing.fusions import FusionContract
    from learn.testing.heads import HeadContract
    from learn.testing.networks import NetworkContract
    from learn.testing.objectives import ObjectiveContract
    from learn.testing.projections import ProjectionContract
    from learn.testing.protocols import ProtocolContract
    from learn.testing.strategies import StrategyContract
    from learn.testing.tasks import TaskContract

__all__ = [
    "AugmentationContract",
    "FusionContract",
    "HeadContract",
    "NetworkContract",
    "ObjectiveContract",
    "ProjectionContract",
    "ProtocolContract",
    "StrategyContract",
    "TaskContract",
]

_HOME = {
    "AugmentationContract": "augmentations",
    "FusionContract": "fusions",
    "HeadContract": "heads",
    "NetworkContract": "networks",
    "ObjectiveContract": "objectives",
    "ProjectionContract": "projections",
    "ProtocolContract": "protocols",
    "StrategyContract": "strategies",
    "TaskContract": "tasks",
}

if "pytest" in sys.modules:  # a failure then shows what was compared
    sys.modules["pytest"].register_assert_rewrite(
        *(f"{__name__}.{module}" for module in sorted(set(_HOME.values())))
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
