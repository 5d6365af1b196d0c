"""The metrics by name, the presets, and the choice of what to measure from a user's words."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mdjax.errors import InputError, check_whole, first_line
from mdjax.metrics.cka import CKA
from mdjax.metrics.connectivity import LinearConnectivity, ModeConnectivity
from mdjax.metrics.contract import Metric
from mdjax.metrics.density import Density
from mdjax.metrics.hessian import Hessian
from mdjax.metrics.losses import Losses
from mdjax.metrics.similarity import Similarity
from mdjax.metrics.surface import Surface
from mdjax.own_code import own_names, run_file

METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (Losses, Hessian, Density, ModeConnectivity, LinearConnectivity, CKA, Similarity, Surface)
}
"""The only registry: everything that `mdjax measure --metrics` accepts, in the order in which it is measured."""

_MOST = 1_000_000
"""The greatest count that a metric may be set to: of steps, probes, points, examples of a batch."""

PRESETS = {
    "default": "accurate",
    "reference": "the published recipe, its oddities included",
    "fast": "a quarter of the samples, a trace to 5 % instead of 2 %, one pair's curve trained for half the steps",
}
"""Preset → what it is. Each metric says in `of_preset` which of its settings a preset changes."""


def select(
    preset: str = "default", names: str | Sequence[str | Metric] | None = None, settings: Sequence[str] = ()
) -> tuple[Metric, ...]:
    """The metrics to measure, in the registry's order, with the preset's settings.

    `names` is a comma-separated text or a sequence of names and metric objects (taken as they are); without it the
    metrics that the trees read. A name "FILE.py:CLASS" is a metric of the user's own, whose file is run. `settings` are
    texts "metric.setting=value" that change one setting each.
    InputError for an unknown preset, metric or setting, and for a value of the wrong kind.
    """
    if preset not in PRESETS:
        raise InputError(f"Unknown preset {preset!r}. Choose one of {', '.join(PRESETS)}.")
    usual = [name for name, metric in METRICS.items() if metric.by_default]
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names or usual)
    chosen: dict[str, Metric] = {}
    for name in wanted:
        if isinstance(name, Metric):
            metric = name
        elif ".py:" in name:
            metric = _from_file(name, preset)
        elif name not in METRICS:
            raise InputError(f"Unknown metric {name!r}. Choose from {', '.join(METRICS)}, or give FILE.py:CLASS.")
        else:
            metric = METRICS[name].of_preset(preset)
        if chosen.setdefault(metric.name, metric) != metric:
            raise InputError(
                f"Two metrics are called {metric.name!r}: {chosen[metric.name]} and {metric}. They would write the "
                "same columns; measure each into a table of its own."
            )
    for setting in settings:
        path, _, text = setting.partition("=")
        name, _, field = path.strip().partition(".")
        if name in METRICS and name not in chosen and field and text:
            raise InputError(
                f"Cannot set {setting!r}: {name} is not measured. Add it to the metrics: {','.join([*chosen, name])}."
            )
        if name not in chosen or not field or not text:
            raise InputError(
                f"Cannot set {setting!r}. Write metric.setting=value with one of the metrics {', '.join(chosen)}."
            )
        chosen[name] = _changed(chosen[name], field, text.strip(), setting)
    for metric in chosen.values():
        _check_counts(metric.name, metric)
    order = {name: place for place, name in enumerate(METRICS)}
    return tuple(sorted(chosen.values(), key=lambda metric: order.get(metric.name, len(order))))


def _check_counts(name: str, settings: Any) -> None:
    """InputError for a whole number among the settings, and those inside them, that nothing could be measured with."""
    for field in dataclasses.fields(settings):
        value, path = getattr(settings, field.name), f"{name}.{field.name}"
        if dataclasses.is_dataclass(value):
            _check_counts(path, value)
        # Of examples those that the data have are taken.
        elif isinstance(value, int) and not isinstance(value, bool) and field.name != "num_samples":
            check_whole(path, value, -_MOST, _MOST)


def _from_file(text: str, preset: str) -> Metric:
    """The metric of the class that "FILE.py:CLASS" names."""
    file, _, name = text.rpartition(":")
    module = run_file(file, "a metric of your own")
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, Metric):
        own = ", ".join(own_names(module, Metric)) or "none"
        raise InputError(
            f"{file} has no metric {name!r}; it has {own}. Subclass ModelMetric, PairMetric or FeatureMetric of "
            "mdjax.metrics."
        )
    try:
        return found.of_preset(preset)
    except Exception as error:  # the user's own code again
        raise InputError(f"Cannot make {text}: {type(error).__name__}: {first_line(error)}. Mend it.") from None


def help_text() -> str:
    """The registry as lines for people: each metric with its description, and the presets."""
    width = max(map(len, METRICS)) + 2
    lines = [
        f"  {name + (' *' if metric.by_default else ''):<{width}}  {metric.description}"
        for name, metric in METRICS.items()
    ]
    presets = [f"  {name:<{width}}  {text}" for name, text in PRESETS.items()]
    return "\n".join(
        ["metrics (those with * are measured unless others are named):", "", *lines, "", "presets:", "", *presets]
    )


def _changed(target: Any, field: str, text: str, setting: str) -> Any:
    """A copy of frozen settings with one field, perhaps of settings inside them ("settings.num_steps"), changed."""
    name, _, inner = field.partition(".")
    known = [entry.name for entry in dataclasses.fields(target)]
    if name not in known:
        raise InputError(f"Cannot set {setting!r}: there is no {name!r}. Its settings are {', '.join(known)}.")
    old = getattr(target, name)
    if inner and dataclasses.is_dataclass(old):
        return dataclasses.replace(target, **{name: _changed(old, inner, text, setting)})
    if callable(old):
        raise InputError(f"Cannot set {setting!r}: {name} is a function. Give a metric object in Python instead.")
    try:
        new = text == "true" if isinstance(old, bool) and text in ("true", "false") else type(old)(text)
        if isinstance(old, bool) and text not in ("true", "false"):
            raise ValueError
        return dataclasses.replace(target, **{name: new})
    except (ValueError, TypeError) as error:
        reason = f" ({error})" if isinstance(error, InputError) else ""
        raise InputError(
            f"Cannot set {setting!r}{reason}. Give a value like {str(old).lower() if isinstance(old, bool) else old}."
        ) from None
