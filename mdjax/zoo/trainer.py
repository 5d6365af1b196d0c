"""A process of its own that trains groups of models: `python -m mdjax.zoo.trainer`, started by `mdjax.zoo.trainers`.

It hands over what it has trained through the file that each task names, and never touches the zoo.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mdjax.pools import Work, serve


def _begin(setup: Mapping[str, Any]) -> Work:
    import jax

    from mdjax.engine.compilation import keep_compiled_programs
    from mdjax.errors import InputError
    from mdjax.files import writing
    from mdjax.handovers import write_arrays
    from mdjax.zoo.data import dataset_of
    from mdjax.zoo.grids import Setting
    from mdjax.zoo.recipes import Recipe
    from mdjax.zoo.training import train_stack

    keep_compiled_programs()
    dataset = dataset_of(setup["data"])
    if dataset.fingerprint != setup["fingerprint"]:
        raise InputError(f"The data {setup['data']} changes while it is trained on. Run the same command again.")

    def work(what: Mapping[str, Any], advance: Callable[[float], None]) -> dict[str, Any]:
        settings = [Setting(**{**told, "recipe": Recipe(**told["recipe"])}) for told in what["settings"]]
        leaves = jax.tree.leaves(train_stack(settings, dataset, advance=advance))
        with writing(f"what was trained to {what['file']}", "Free space, then run the same command again."):
            return {"places": write_arrays(Path(what["file"]), leaves)}

    return work


if __name__ == "__main__":
    serve(_begin)
