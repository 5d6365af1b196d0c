"""The registry of metrics by name, the presets, and the choice of what to measure from a user's words."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mdjax.errors import InputError
from mdjax.landscape.curves import CurveSettings
from mdjax.metrics.cka import CKA, PublishedCKA
from mdjax.metrics.connectivity import LinearConnectivity, ModeConnectivity, PublishedModeConnectivity
from mdjax.metrics.contract import Metric
from mdjax.metrics.density import Density
from mdjax.metrics.hessian import Hessian, PublishedHessian
from mdjax.metrics.losses import Losses
from mdjax.metrics.similarity import Similarity
from mdjax.metrics.surface import Surface

METRICS: dict[str, type] = {
    metric.name: metric
    for metric in (Losses, Hessian, Density, ModeConnectivity, LinearConnectivity, CKA, Similarity, Surface)
}
"""The only registry: everything that `mdjax measure --metrics` accepts."""

_FEATURES = ("losses", "hessian", "mode_connectivity", "cka")
"""What the trees read: measured unless other metrics are named."""

PRESETS: dict[str, dict[str, Metric]] = {
    "default": {},
    "reference": {
        "hessian": PublishedHessian(),
        "mode_connectivity": PublishedModeConnectivity(),
        "cka": PublishedCKA(),
    },
    "fast": {
        "hessian": Hessian(
            num_samples=256, tolerance=1e-2, min_steps=4, max_steps=8, trace_tolerance=0.05, max_probes=40
        ),
        "mode_connectivity": ModeConnectivity(CurveSettings(num_steps=75), num_points=5, pairs="first"),
        "cka": CKA(num_batches=2),
    },
}
"""Preset → the metrics whose settings it changes. `default`: accurate. `reference`: the published recipe, its oddities
included. `fast`: a quarter of the samples, a trace to 5 % instead of 2 %, and one pair's curve, trained for half the
steps, which may leave it above the path that is there."""


def select(
    preset: str = "default", names: str | Sequence[str | Metric] | None = None, settings: Sequence[str] = ()
) -> tuple[Metric, ...]:
    """The metrics to measure, in the registry's order, with the preset's settings.

    `names` is a comma-separated text or a sequence of names and metric objects (taken as they are); without it the
    metrics that the trees read. `settings` are texts "metric.setting=value" that change one setting each.
    InputError for an unknown preset, metric or setting, and for a value of the wrong kind.
    """
    if preset not in PRESETS:
        raise InputError(f"Unknown preset {preset!r}. Choose one of {', '.join(PRESETS)}.")
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names or _FEATURES)
    chosen: dict[str, Metric] = {}
    for name in wanted:
        if not isinstance(name, str):
            chosen[name.name] = name
        elif name not in METRICS:
            raise InputError(f"Unknown metric {name!r}. Choose from {', '.join(METRICS)}.")
        else:
            chosen[name] = PRESETS[preset].get(name) or METRICS[name]()
    for setting in settings:
        path, _, text = setting.partition("=")
        name, _, field = path.strip().partition(".")
        if name not in chosen or not field or not text:
            raise InputError(
                f"Cannot set {setting!r}. Write metric.setting=value with one of the metrics {', '.join(chosen)}."
            )
        chosen[name] = _changed(chosen[name], field, text.strip(), setting)
    order = {name: place for place, name in enumerate(METRICS)}
    return tuple(sorted(chosen.values(), key=lambda metric: order.get(metric.name, len(order))))


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
