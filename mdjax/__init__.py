"""Model diagnosis from the loss landscape: why does a trained network underperform?

The public calls load on first use, so that diagnosing a finished table never imports JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mdjax.calibration.growing import calibrate as calibrate
    from mdjax.checking import check as check
    from mdjax.diagnosis.mdtree import MDTree as MDTree
    from mdjax.diagnosis.verdicts import diagnose as diagnose
    from mdjax.diagnosis.verdicts import explain as explain
    from mdjax.errors import InputError as InputError
    from mdjax.measuring import measure as measure
    from mdjax.zoo.store import Zoo as Zoo
    from mdjax.zoo.training import train as train

_PUBLIC = {
    "InputError": "mdjax.errors",
    "calibrate": "mdjax.calibration.growing",
    "MDTree": "mdjax.diagnosis.mdtree",
    "Zoo": "mdjax.zoo.store",
    "check": "mdjax.checking",
    "diagnose": "mdjax.diagnosis.verdicts",
    "explain": "mdjax.diagnosis.verdicts",
    "measure": "mdjax.measuring",
    "train": "mdjax.zoo.training",
}
_PACKAGES = frozenset(
    [
        "calibration",
        "diagnosis",
        "engine",
        "landscape",
        "linalg",
        "metrics",
        "models",
        "report",
        "sweeps",
        "table",
        "tasks",
        "zoo",
    ]
)

__all__ = [
    "InputError",
    "MDTree",
    "Zoo",
    "__version__",
    "calibrate",
    "check",
    "diagnose",
    "explain",
    "measure",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"mdjax.{name}")
    else:
        raise AttributeError(f"module 'mdjax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, *_PACKAGES])
