"""The former name of `mdjax.landscape.alignment`, for scripts that import from here."""

from mdjax.landscape.alignment import aligned, matching, permuted, specification, verify

__all__ = ["aligned", "matching", "permuted", "specification", "verify"]
