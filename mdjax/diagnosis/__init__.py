"""A table of measured configurations → the cause of each failure, its evidence, one change. Never loads JAX."""

from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
from mdjax.diagnosis.causes import CAUSES
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import own_sweep
from mdjax.diagnosis.sweep_axes import sweep_axes
from mdjax.diagnosis.sweep_trees import grow_sweep
from mdjax.diagnosis.trees import load_trees, save_trees
from mdjax.diagnosis.verdicts import diagnose, explain

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
