"""The published ResNet-18 zoo (taxonomy): where its files lie.

Layout and names: github.com/nsfzyzz/loss_landscape_taxonomy (Yang et al., "Taxonomizing local versus global structure
in neural network loss landscapes", NeurIPS 2021), reused by Zhou et al., ICML 2024.
"""

import re
from pathlib import Path

from converters.layouts.contract import Candidate
from converters.reports import Outcome, OutcomeCode

NAME = "taxonomy"
SUMMARY = "different_knobs_KIND_NN/bs_B/SCHEDULE/ResNet18_wK/net_exp_SEED.pkl"

_FILE = re.compile(r"net_exp_(0|[1-9]\d{0,8})(_early_stopped_model|_best|)\.pkl")
_CHECKPOINTS = {"_early_stopped_model": "early_stopped", "_best": "best", "": "last"}
"""File-name suffix → which checkpoint of a training run it is; the published analyses take the first there is."""

_TOP = "different_knobs_"
_FOLDERS = re.compile(
    r"different_knobs_(?P<kind>subset|subset_noisy|random_label)_(?P<number>10|0\d*)"
    r"/bs_(?P<batch_size>[1-9]\d{0,8})/(?P<schedule>normal|lr_decay)/ResNet18_w(?P<width>[1-9]\d{0,3})"
)
_SUBSET_NOISE = 0.1
"""The label noise of `subset_noisy`: the only one the published scripts know."""


def claim(path: Path, root: Path) -> Candidate | Outcome | None:
    """A model of the published zoo, from its folders and file name; `root` may be any folder of its tree.

    `seed` is the run's index: the published scripts set no seed. The learning rate and the number of epochs are
    stored nowhere, so they are None; momentum and weight decay are those of the published scripts. The folder's own
    name for the data stays in the configuration: `subset_noisy_10` and `random_label_01` are the same fraction of the
    data and the same noise, but different training runs.
    """
    folders = "/".join(path.parts[-5:-1])
    file, folder = _FILE.fullmatch(path.name), _FOLDERS.fullmatch(folders)
    if path.suffix != ".pkl" or not (file or any(part.startswith(_TOP) for part in path.parts[:-1])):
        return None
    if path.parent.name == "metrics":
        return Outcome(path, OutcomeCode.SKIPPED, "a file of measurements, not of weights")
    if not file:
        reason = "its name is not net_exp_SEED.pkl, net_exp_SEED_best.pkl or net_exp_SEED_early_stopped_model.pkl"
        return Outcome(path, OutcomeCode.REFUSED, reason)
    if not folder:
        return Outcome(path, OutcomeCode.REFUSED, f"its folders {folders} are not named as in {SUMMARY}")
    kind, number, schedule = folder["kind"], folder["number"], folder["schedule"]
    fraction = _fraction(number)
    if kind != "random_label" and fraction == 0:
        return Outcome(path, OutcomeCode.REFUSED, f"its folder {path.parts[-5]} says that it was trained on no data")
    configuration = f"resnet18-w{folder['width']}-bs{folder['batch_size']}-{kind}_{number}-{schedule}"
    return Candidate(
        path=path,
        model_id=f"{configuration}-s{file[1]}",
        configuration=configuration,
        seed=int(file[1]),
        known={
            "batch_size": int(folder["batch_size"]),
            "data_share": 1.0 if kind == "random_label" else fraction,
            "label_noise": {"subset": 0.0, "subset_noisy": _SUBSET_NOISE, "random_label": fraction}[kind],
            "learning_rate": None,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "epochs": None,
            "schedule": {"normal": "constant", "lr_decay": "one_decay"}[schedule],
            "checkpoint": _CHECKPOINTS[file[2]],
        },
        facts={"input_shape": (32, 32, 3)},
        width=int(folder["width"]),
        data="cifar10",
        rank=list(_CHECKPOINTS).index(file[2]),
    )


def _fraction(number: str) -> float:
    """The published shorthand: 10 → 1.0, 09 → 0.9, 025 → 0.25, 0 → 0.0."""
    return 1.0 if number == "10" else float(f"0.{number[1:]}0")
