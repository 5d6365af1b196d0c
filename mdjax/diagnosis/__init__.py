"""A table of measured configurations → the cause of each failure, its evidence, one change. Never loads JAX.

The public calls load on first use: what measures needs the columns of trajectories, and not scikit-learn.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Not by its name on first use: its module, which has the same one, would be found in its place.
from mdjax.diagnosis.sweep_axes import sweep_axes

if TYPE_CHECKING:
    from mdjax.diagnosis.baselines import CombinedTree as CombinedTree
    from mdjax.diagnosis.baselines import HyperparameterTree as HyperparameterTree
    from mdjax.diagnosis.baselines import LandscapeTree as LandscapeTree
    from mdjax.diagnosis.baselines import ValidationTree as ValidationTree
    from mdjax.diagnosis.causes import CAUSES as CAUSES
    from mdjax.diagnosis.growing import grow as grow
    from mdjax.diagnosis.mdtree import MDTree as MDTree
    from mdjax.diagnosis.own_sweeps import own_sweep as own_sweep
    from mdjax.diagnosis.sweep_trees import grow_sweep as grow_sweep
    from mdjax.diagnosis.trees import load_trees as load_trees
    from mdjax.diagnosis.trees import save_trees as save_trees
    from mdjax.diagnosis.verdicts import diagnose as diagnose
    from mdjax.diagnosis.verdicts import explain as explain

_MODULES = {
    "CAUSES": "causes",
    "CombinedTree": "baselines",
    "HyperparameterTree": "baselines",
    "LandscapeTree": "baselines",
    "MDTree": "mdtree",
    "ValidationTree": "baselines",
    "diagnose": "verdicts",
    "explain": "verdicts",
    "grow": "growing",
    "grow_sweep": "sweep_trees",
    "load_trees": "trees",
    "own_sweep": "own_sweeps",
    "save_trees": "trees",
}

__all__ = [
    "CAUSES",
    "CombinedTree",
    "HyperparameterTree",
    "LandscapeTree",
    "MDTree",
    "ValidationTree",
    "diagnose",
    "explain",
    "grow",
    "grow_sweep",
    "load_trees",
    "own_sweep",
    "save_trees",
    "sweep_axes",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mdjax.diagnosis' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"mdjax.diagnosis.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
