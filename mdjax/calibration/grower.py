"""A process of its own that grows cells of a calibration: `python -m mdjax.calibration.grower`, started by
`mdjax.calibration.growers`.

It hands over a cell's rows through the file that each task names, and never touches the calibration.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mdjax.pools import Work, serve


def _begin(setup: Mapping[str, Any]) -> Work:
    from mdjax.calibration.design import Cell
    from mdjax.calibration.growing import CellGrower
    from mdjax.calibration.targets import Target
    from mdjax.engine import is_shortage
    from mdjax.engine.compilation import in_32_bits, keep_compiled_programs
    from mdjax.errors import InputError
    from mdjax.files import writing
    from mdjax.parquet import write_frame
    from mdjax.zoo.data import dataset_of
    from mdjax.zoo.recipes import Recipe

    keep_compiled_programs()
    dataset = dataset_of(setup["data"])
    if dataset.fingerprint != setup["fingerprint"]:
        raise InputError(f"The data {setup['data']} changes while it is trained on. Run the same command again.")
    target = Target(**{**setup["target"], "recipe": Recipe(**setup["target"]["recipe"])})
    grower = CellGrower(target, dataset, *setup["options"])

    @in_32_bits
    def work(what: Mapping[str, Any], advance: Callable[[float], None]) -> dict[str, Any]:
        try:
            rows = grower.grown(Cell(*what["cell"]))
        except Exception as error:
            if not is_shortage(error):
                raise
            return {"shortage": str(error) or "it does not fit the memory"}
        with writing(f"what was grown to {what['file']}", "Free space, then run the same command again."):
            write_frame(rows, Path(what["file"]))
        return {}

    return work


if __name__ == "__main__":
    serve(_begin)
