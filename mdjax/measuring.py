"""`mdjax.measure`: a zoo, a list of models, or one network as it stands in memory → a table.

Modules of Flax, Equinox and torch are taken as they are: the converters make models of them, asked inside a function.
"""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack, cast

import jax

from mdjax.addresses import Address
from mdjax.errors import InputError, check_options, first_line
from mdjax.models import FunctionModel, Model
from mdjax.sweeps import local
from mdjax.sweeps.local import RunOptions
from mdjax.table import Table
from mdjax.zoo.data import Data, Dataset, dataset_of
from mdjax.zoo.draws import draw_of
from mdjax.zoo.store import Zoo

PyTree = Any

_EXAMPLES = 2
"""With which a module is called, to see that it can be."""


def measure(source: Any, params: PyTree = None, data: Data | None = None, **options: Unpack["MeasureOptions"]) -> Table:
    """Measure the models of a zoo, a list of models, or one network; returns a table that prints as a short one.

        source: a zoo or its path; or a list of (params, state) with `model=`, which count as seeds of one
            configuration; or a network: a module of Flax (linen or nnx), Equinox or torch.nn, a `mdjax.models.Model`,
            or a function `apply(params, inputs)` or `apply(params, state, inputs)`.
        params: of a network, where it does not hold them itself: a linen module's variables, a function's parameters,
            or (params, state) where it takes a state.
        data: what the models are measured on. (x, y) is taken as training data alone; (x_train, y_train, x_test,
            y_test), (train, test) data sets, names and paths as `mdjax.zoo.data.dataset_of` takes them (default: what
            the zoo was trained on).
        options: `metrics`, `out`, `model`, `preset`, `settings`, `task`, `layout`, `seed`, ..., see
            `mdjax.sweeps.local.measure`.

    A module is called on single arrays, images with their channels last, as it is evaluated: without dropout, with
    stored statistics. Raises InputError for what cannot be measured. Cost: see the metrics.

        mdjax.measure(module, variables, (x, y), metrics="hessian")
    """
    check_options("measure", options, MeasureOptions)
    if isinstance(source, str | Path | Address | Zoo | list):
        if params is not None:
            raise InputError(
                f"params is {type(params).__name__!r}, beside a zoo or a list of models, which hold their own. Leave "
                "it out; data are named by data=."
            )
        return local.measure(source, data=data, **options)
    if params is None and not _is_module(source):
        return local.measure(source, data=data, **options)  # which refuses it
    if "model" in options:
        raise InputError("model was given beside a network, which says itself how it is called. Leave it out.")
    if data is None:
        raise InputError("No data to measure on. Give (x, y), or (x_train, y_train, x_test, y_test).")
    given = dataset_of(
        data,
        options.get("layout"),
        options.get("task"),
        draw_of(options.get("num_examples"), options.get("seed", 0)),
    )
    model, weights, dataset = _taken(source, params, given)
    rest: Any = {name: value for name, value in options.items() if name not in ("layout", "task", "num_examples")}
    return local.measure([weights], data=dataset, model=model, **rest)


class MeasureOptions(RunOptions, total=False):
    """What else a measurement may be told, see `mdjax.sweeps.local.measure`."""

    out: str | Path | Address | None
    model: Model | Any
    preset: str
    metrics: Any
    settings: Any


def _is_module(source: Any) -> bool:
    from converters.objects import is_module

    return is_module(source)


def _taken(source: Any, params: PyTree, dataset: Dataset) -> tuple[Model, tuple[PyTree, PyTree], Dataset]:
    """The model, its (params, state), and the data in the form that it reads."""
    if _is_module(source):
        return _converted(source, params, dataset)
    with_state = isinstance(params, tuple) and len(params) == 2
    if isinstance(source, Model):
        return source, params if with_state else (params, {}), dataset
    if not callable(source):
        raise InputError(
            f"Cannot measure {type(source).__name__!r} with params. Give a module, or a function apply(params, inputs)."
        )
    if _num_arguments(source) == 2 or (_num_arguments(source) is None and not with_state):
        return FunctionModel(_WithoutState(source)), (params, {}), dataset
    return FunctionModel(cast(Any, source)), params if with_state else (params, {}), dataset


def _converted(module: Any, params: PyTree, dataset: Dataset) -> tuple[Model, tuple[PyTree, PyTree], Dataset]:
    """A module, on the data as they were read or, where nobody said what inputs are, read the other way."""
    from converters.errors import RefusedError
    from converters.objects import from_object

    problem: Exception | None = None
    otherwise = dataset.reading.otherwise if dataset.reading is not None else None
    for read in (lambda: dataset, *([otherwise] if otherwise is not None else [])):
        each = read()
        try:
            found = from_object(module, params, jax.tree.map(lambda leaf: leaf[:_EXAMPLES], each.x_train))
        except RefusedError as error:
            problem = problem or InputError(f"Cannot measure the module: {error}.")
        except InputError as error:
            problem = problem or error
        except Exception as error:  # the module's own code
            told = f"{type(error).__name__}: {first_line(error)}"
            problem = problem or InputError(
                f"Cannot call the module on {dataset.name}: {told}. Give the data it reads."
            )
        else:
            return found.model, (found.params, found.state), each
    assert problem is not None
    raise problem


@dataclasses.dataclass(frozen=True)
class _WithoutState:
    """apply(params, inputs) as a function of a state, too; equal for equal functions, which share their programs."""

    function: Callable[[PyTree, PyTree], PyTree]

    def __call__(self, params: PyTree, state: PyTree, inputs: PyTree) -> PyTree:
        return self.function(params, inputs)


def _num_arguments(function: Callable[..., Any]) -> int | None:
    """How many arguments a function has to be given by position; None where it takes any number, or does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds and each.default is inspect.Parameter.empty for each in parameters)
