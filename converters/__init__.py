"""Checkpoints of other programs → a zoo: `converters.convert(src, out)`, or `mdjax-convert SRC --out ZOO`.

The public names load on first use, so that `mdjax-convert --help` waits for neither JAX nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.conversion import Outcome as Outcome
    from converters.conversion import Report as Report
    from converters.conversion import convert as convert

__all__ = ["Outcome", "Report", "convert"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'converters' has no attribute {name!r}")
    return getattr(importlib.import_module("converters.conversion"), name)
