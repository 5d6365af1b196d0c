"""Units of six models a to f, and rows of theirs, with nothing measured."""

import pandas as pd

from mdjax.metrics.losses import Losses
from mdjax.sweeps.units import Cell, Unit

MODELS = pd.DataFrame({"model_id": list("abcdef"), "weights_hash": list("uvwxyz")})
CELL = Cell(MODELS, None, 1.0, 0.0)


def unit(models="ab", prefix="losses-0"):
    members = tuple(("abcdef".index(name),) for name in models)
    return (
        Unit(Losses(), CELL, members, tuple(f"key-{name}" for name in models), "")
        .part(range(len(models)))
        ._replace(name=f"{prefix}-{models}")
    )


def frame(models="ab", **more):
    keys = [f"key-{name}" for name in models]
    return pd.DataFrame({"model_id": list(models), "value": 1.0, "status_code": "ok", "key": keys, **more})
