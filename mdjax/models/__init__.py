"""Architectures by name, and models as pure functions of pytrees."""

from mdjax.models.architecture import (
    FAMILIES,
    GROWN,
    Architecture,
    FlaxModel,
    FunctionModel,
    HasFrozen,
    Model,
    sequence,
)

__all__ = ["FAMILIES", "GROWN", "Architecture", "FlaxModel", "FunctionModel", "HasFrozen", "Model", "sequence"]
