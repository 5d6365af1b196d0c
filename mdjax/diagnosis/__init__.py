"""A table of measured configurations → the cause of each failure, its evidence, one change. Never loads JAX."""

from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
from mdjax.diagnosis.causes import CAUSES
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree
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
    "load_trees",
    "save_trees",
]
