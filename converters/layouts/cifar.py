"""Checkpoints of pytorch-cifar (`checkpoint/ckpt.pth`) and pytorch-cifar100 (`NET/TIME/NET-EPOCH-best.pth`).

Layouts and names: github.com/kuangliu/pytorch-cifar and github.com/weiaicunzai/pytorch-cifar100.
"""

import re
from pathlib import Path

from converters.layouts.contract import Candidate, remembered
from converters.layouts.files import seed_in, without_seed
from converters.reports import Outcome

NAME = "cifar"
SUMMARY = "checkpoint/ckpt.pth, checkpoint/NET/TIME/NET-EPOCH-{best|regular}.pth"

_FILE = re.compile(r"(?P<net>[a-z][a-z0-9_]*)-(?P<epoch>\d{1,6})-(?P<kind>best|regular)\.pth")
_NUM_EPOCHS = 10**6  # more than a file's name can tell
_SHAPE = {"input_shape": (32, 32, 3)}


def claim(path: Path, root: Path) -> Candidate | Outcome | None:
    """The model of a run.

    pytorch-cifar100 keeps a folder for each run, named after its time, with checkpoints of epochs that were the best
    so far and of regular ones: the last best one is taken, else the last regular one. The runs of a network count as
    its seeds, in the order of their names. pytorch-cifar keeps one checkpoint, of the best epoch, in a folder of the
    fixed name `checkpoint`; the folder above tells one run from another.
    """
    if path.name in ("ckpt.pth", "ckpt.t7") and path.parent.name == "checkpoint":
        run = path.parent.parent.name
        return Candidate(
            path=path,
            model_id=f"{run}/{path.name}",
            configuration=without_seed(run) or "runs",
            seed=seed_in(run) or 0,
            known={"dataset": "cifar10", "checkpoint": "best"},
            facts=_SHAPE,
            data="cifar10",
        )
    file = _FILE.fullmatch(path.name)
    if not file:
        return None
    run, best = path.parent, file["kind"] == "best"
    return Candidate(
        path=path,
        model_id=f"{run.parent.name}/{run.name}/{file['net']}",
        configuration=f"{run.parent.name}/{file['net']}",
        seed=_index(run),
        known={
            "dataset": "cifar100",
            "checkpoint": "best" if best else "last",
            "epochs": int(file["epoch"]),
        },
        facts=_SHAPE,
        rank=(0 if best else _NUM_EPOCHS) - int(file["epoch"]),
    )


@remembered
def _index(run: Path) -> int:
    """A run's number among those beside it, the earliest being 0."""
    try:
        runs = sorted(entry.name for entry in run.parent.iterdir() if entry.is_dir())
        return runs.index(run.name)
    except (OSError, ValueError):
        return 0
