"""Model diagnosis from the loss landscape: why does a trained network underperform?

The public calls load on first use, so that diagnosing a finished table never imports JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mdjax.diagnosis import MDTree as MDTree
    from mdjax.diagnosis import diagnose as diagnose
    from mdjax.errors import InputError as InputError
    from mdjax.sweep import measure as measure
    from mdjax.verdicts import explain as explain
    from mdjax.zoo import Zoo as Zoo

_PUBLIC = {
    "Zoo": "mdjax.zoo",
    "measure": "mdjax.sweep",
    "MDTree": "mdjax.diagnosis",
    "diagnose": "mdjax.diagnosis",
    "explain": "mdjax.verdicts",
    "InputError": "mdjax.errors",
}
_MODULES = frozenset(
    [
        "alignment",
        "baselines",
        "curvature",
        "curves",
        "data",
        "density",
        "diagnosis",
        "engine",
        "grids",
        "krylov",
        "labels",
        "losses",
        "mdtree",
        "metrics",
        "models",
        "plan",
        "protocols",
        "questions",
        "report",
        "similarity",
        "surfaces",
        "sweep",
        "table",
        "trace",
        "training",
        "trees",
        "verdicts",
        "zoo",
    ]
)

__all__ = ["InputError", "MDTree", "Zoo", "__version__", "diagnose", "explain", "measure"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"mdjax.{name}")
    else:
        raise AttributeError(f"module 'mdjax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, *_MODULES])
