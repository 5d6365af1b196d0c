"""The former name of `mdjax.zoo.data`, for scripts that import `Dataset` and `load` from here."""

from mdjax.zoo.data import Dataset, load

__all__ = ["Dataset", "load"]
