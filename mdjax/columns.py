"""What the columns of manifests and tables are called, and how a feature is made and read.

A table of configurations carries the description of its features with it (`attrs["features"]`, kept in the Parquet
file), so that a report knows the features of any metric, also of one that it has never heard of.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd

from mdjax.escapes import printable

ARCHITECTURE = ("family", "variant", "width", "depth", "num_classes", "num_params")
"""What a table says of a model's architecture."""

TRAINING = ("batch_size", "data_share", "label_noise", "learning_rate", "momentum", "weight_decay", "epochs")
"""What a manifest and a table say of a model's training."""

RECIPE = ("optimizer", "schedule", "warmup", "augmentation")
"""What else a manifest and a table say of the training of a grid's networks (`mdjax.zoo.recipes.Recipe`)."""

LIMITS: dict[str, tuple[type, float, float]] = {
    "width": (int, 1, 2**20),
    "depth": (int, 1, 1000),
    "batch_size": (int, 1, 2**31 - 1),
    "data_share": (float, 0, 1),
    "label_noise": (float, 0, 1),
    "learning_rate": (float, 0, 1e30),
    "momentum": (float, 0, 1),
    "weight_decay": (float, 0, 1e30),
    "epochs": (int, 0, 2**31 - 1),
}
"""Fact of a network or its training -> its type, and its least and greatest value: 32 bits have to hold them."""

TASK, CLASSES = "task", "classification"
"""The column that says what models are asked, and what it is where a table has none."""

EXAMPLES = "num_examples"
"""The column that says on how many training examples was measured, where these were drawn from more."""

CONFIGURATION = (*ARCHITECTURE, TASK, EXAMPLES, *TRAINING, *RECIPE, "preset")
"""Columns that all models of a configuration share."""

UNIT_OF_LOSS = "unit of the loss"
"""As a feature's unit: that of the data's task, which the table then tells (nats for classes)."""

FEATURES = "features"
"""Where a frame of configurations keeps the descriptions of its features, in `attrs`."""


@dataclass(frozen=True)
class Feature:
    """A column of configurations: what it is made from, and how people read it.

    `column` of the models' or pairs' rows (default: of the same name) is averaged over a configuration's rows that
    have it; "signed_log" takes `sweeps.aggregation.signed_log` of that mean. `<name>_se` is the standard error from
    the rows' spread, or, where one row shows none, the mean of the column `own_error`. `title` and `unit` name it in
    a figure, whose colours follow the logarithm of the values where `log_colours` is set; none is drawn of a feature
    that is not `drawn`.
    """

    name: str
    title: str
    unit: str = ""
    column: str = ""
    own_error: str = ""
    scale: Literal["linear", "signed_log"] = "linear"
    log_colours: bool = False
    drawn: bool = True

    @property
    def source(self) -> str:
        """The column of the models' or pairs' rows that the feature is made from."""
        return self.column or self.name

    @property
    def label(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def describe(table: pd.DataFrame, features: Iterable[Feature]) -> pd.DataFrame:
    """The same frame of configurations, carrying the descriptions of its features."""
    table.attrs[FEATURES] = [asdict(feature) for feature in features]
    return table


def described(table: pd.DataFrame) -> dict[str, Feature]:
    """The features that a frame of configurations describes, by name; none for a frame that describes nothing.

    What cannot be understood, as in a file of another version, counts as not described.
    """
    found: dict[str, Feature] = {}
    entries: Any = table.attrs.get(FEATURES, ())
    for entry in entries if isinstance(entries, list) else ():
        try:
            feature = Feature(**entry)
        except TypeError:
            continue
        if isinstance(feature.name, str) and isinstance(feature.title, str):
            # The words go into pictures, which a control character would damage.
            found[feature.name] = replace(feature, title=printable(feature.title), unit=printable(str(feature.unit)))
    return found
