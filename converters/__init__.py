"""Checkpoints of other programs → a zoo: `converters.convert(src, out)`, or `mdjax-convert SRC --out ZOO`.

The public names load on first use, so that `mdjax-convert --help` waits for neither JAX nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.conversion import convert as convert
    from converters.errors import RefusedError as RefusedError
    from converters.reports import Outcome as Outcome
    from converters.reports import Report as Report
    from converters.state_dicts import read_state_dict as read_state_dict

_PLACES = {
    "Outcome": "converters.reports",
    "RefusedError": "converters.errors",
    "Report": "converters.reports",
    "convert": "converters.conversion",
    "read_state_dict": "converters.state_dicts",
}

__all__ = ["Outcome", "RefusedError", "Report", "convert", "read_state_dict"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'converters' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
