"""What tests of the converters share: reading back what was converted."""

from typing import Any

import jax

from mdjax.zoo.store import Zoo


def stored_model(zoo: Zoo, model_id: str) -> tuple[Any, Any]:
    """(params, state) of one model of a zoo."""
    row = zoo.manifest.set_index("model_id").loc[model_id]
    return jax.tree.map(lambda leaf: leaf[row["position"]], zoo.read_group(row["group"]))
