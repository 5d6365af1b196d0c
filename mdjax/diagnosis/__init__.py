"""A table of measured configurations → the cause of each failure, its evidence, one change. Never loads JAX."""

from mdjax.diagnosis.answers import CAUSES, diagnose
from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree, load_trees, save_trees
from mdjax.diagnosis.verdicts import explain

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
