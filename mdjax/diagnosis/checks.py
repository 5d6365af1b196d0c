"""A table's features and labels as checked arrays: picked by name, turned to float64, refused when unusable."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_array

from mdjax.columns import CLASSES, TASK
from mdjax.diagnosis.quantities import Columns, with_quantities
from mdjax.diagnosis.questions import Question, Tree, columns_of, features_of
from mdjax.errors import InputError


def feature_columns(X: Any, features: Sequence[str]) -> Columns:
    """The named features of a frame, or an array's columns in that order, as float64; NaN where missing."""
    if isinstance(X, pd.DataFrame):
        absent = [name for name in features if name not in X.columns]
        if absent:
            raise InputError(
                f"The table has no column {', '.join(absent)}; it has {', '.join(map(str, X.columns))}. "
                "Measure these features, or rename the columns that hold them."
            )
        return {name: numeric_column(X, name) for name in features}
    array = check_array(X, dtype="numeric", ensure_all_finite=False)
    if array.shape[1] != len(features):
        raise InputError(
            f"X has {array.shape[1]} columns, but {len(features)} features are expected as input: "
            f"{', '.join(features)}. Give the columns in that order, or a DataFrame with these names."
        )
    return {name: array[:, k].astype(float) for k, name in enumerate(features)}


def numeric_column(table: pd.DataFrame, name: str) -> np.ndarray:
    """One column as float64, NaN where missing; InputError when it is text or its name is repeated."""
    column = table[name]
    if isinstance(column, pd.DataFrame):
        raise InputError(f"The table has {column.shape[1]} columns named {name}. Keep one of them.")
    try:
        return column.to_numpy(dtype=float, na_value=np.nan)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"Column {name} must hold numbers, got dtype {column.dtype}. Convert it first.") from None


def known_numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    """One column as float64, NaN where missing, and all NaN where `numeric_column` would refuse it or it is absent.

    For columns that tell more where a table has them, and that the answer does not hang on.
    """
    try:
        return numeric_column(table, name)
    except (KeyError, InputError):
        return np.full(len(table), np.nan)


def finite(columns: Columns) -> Columns:
    """The same columns, once none of them holds NaN or inf; InputError names the first that does."""
    for name, values in columns.items():
        bad = ~np.isfinite(values)
        if bad.any():
            raise InputError(
                f"Feature {name} contains NaN or inf in {int(bad.sum())} of {len(values)} rows; finite numbers "
                "are needed. Drop these rows (mdjax.diagnose keeps them and names what is missing)."
            )
    return columns


def has_all(table: pd.DataFrame, features: Sequence[str]) -> np.ndarray:
    """A mask of the rows that have all the features, finite."""
    return np.logical_and.reduce([np.isfinite(values) for values in feature_columns(table, features).values()])


def complete_rows(X: Any, y: Any, features: Sequence[str], question: Question) -> tuple[Any, Any, dict[str, int]]:
    """The rows to fit on, their labels, and {"left_out": how many others there are} where there are any.

    Of a frame those that have all the features, with a warning of the rest. An array's rows are all taken: NaN in it
    is an error, as scikit-learn's contract asks. Raises InputError where no row of a frame has them all.
    """
    if not isinstance(X, pd.DataFrame) or not len(X):
        return X, y, {}
    complete = has_all(X, features)
    if complete.all():
        return X, y, {}
    labels = known_labels(y, len(X), question)
    if not complete.any():
        raise InputError(f"None of {len(X)} rows has all of {', '.join(features)}. Measure these features first.")
    left_out = int((~complete).sum())
    warnings.warn(f"{left_out} of {len(X)} rows lack one of {', '.join(features)} and are left out.", stacklevel=3)
    return X.loc[complete], labels[complete], {"left_out": left_out}


def quantity_columns(trees: Sequence[Tree], X: Any, read: Sequence[str]) -> Columns:
    """The columns that trees read and the quantities that they split on, all finite, as float64.

    `X` is a frame, or an array whose columns are the ones named in `read`.
    """
    columns = feature_columns(X, read)
    columns = finite({name: columns[name] for name in columns_of(*trees)})
    return finite(with_quantities(features_of(*trees), columns))


def known_labels(y: Any, num_rows: int, question: Question) -> np.ndarray:
    """The labels as an object array, one for each row; InputError unless all are classes of the question."""
    if y is None:
        raise InputError(f"fit requires y to be passed, but the target y is None. Pass column {question.label}.")
    labels = np.asarray(y, dtype=object)
    if labels.shape != (num_rows,):
        raise InputError(f"y must hold one label for each of {num_rows} rows, got shape {labels.shape}.")
    strange = [label for label in labels if label not in question.classes]
    if strange:
        raise InputError(
            f"y holds {strange[0]!r}; question {question.name!r} knows {', '.join(question.classes)}. "
            "Keep the rows it is asked of: mdjax.diagnosis.questions.named(question).rows(table)."
        )
    if not num_rows:
        raise InputError("Cannot grow a tree on 0 rows. Give rows that are labelled with one of the classes.")
    return labels


def tasks(table: pd.DataFrame) -> pd.Series:
    """What the models of each row are asked: classes, unless the table says otherwise."""
    if TASK not in table.columns:
        return pd.Series(CLASSES, table.index, dtype=object)
    return table[TASK].astype(object).where(table[TASK].notna(), CLASSES)
