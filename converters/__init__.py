"""Checkpoints of other programs → a zoo: `converters.convert(src, out)`, or `mdjax-convert SRC --out ZOO`.

The public names load on first use, so that `mdjax-convert --help` waits for neither JAX nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.conversion import convert as convert
    from converters.errors import RefusedError as RefusedError
    from converters.families import recognise as recognise
    from converters.families import to_flax as to_flax
    from converters.families import to_state_dict as to_state_dict
    from converters.families import to_torch as to_torch
    from converters.flax_checkpoints import from_flax as from_flax
    from converters.modules import Converted as Converted
    from converters.modules import from_exported as from_exported
    from converters.modules import from_module as from_module
    from converters.reports import Note as Note
    from converters.reports import NoteCode as NoteCode
    from converters.reports import Outcome as Outcome
    from converters.reports import OutcomeCode as OutcomeCode
    from converters.reports import Report as Report
    from converters.state_dicts import read_state_dict as read_state_dict

_PUBLIC = {
    "Converted": "converters.modules",
    "Note": "converters.reports",
    "NoteCode": "converters.reports",
    "Outcome": "converters.reports",
    "OutcomeCode": "converters.reports",
    "RefusedError": "converters.errors",
    "Report": "converters.reports",
    "convert": "converters.conversion",
    "from_exported": "converters.modules",
    "from_flax": "converters.flax_checkpoints",
    "from_module": "converters.modules",
    "read_state_dict": "converters.state_dicts",
    "recognise": "converters.families",
    "to_flax": "converters.families",
    "to_state_dict": "converters.families",
    "to_torch": "converters.families",
}

__all__ = [
    "Converted",
    "Note",
    "NoteCode",
    "Outcome",
    "OutcomeCode",
    "RefusedError",
    "Report",
    "convert",
    "from_exported",
    "from_flax",
    "from_module",
    "read_state_dict",
    "recognise",
    "to_flax",
    "to_state_dict",
    "to_torch",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'converters' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
