"""Every metric × architecture × form of execution: the engine decides how, never what."""

import dataclasses
import functools
import os

import pytest
from helpers import check_alike, examples, forms, measured, trained
from model_pairs import flat_examples, normalised
from small_metrics import SMALL

from mdjax.landscape.curves import CurveSettings
from mdjax.metrics import METRICS, PublishedCKA, PublishedHessian, PublishedModeConnectivity

FORMS = list(forms())[1:]

PUBLISHED = {
    "hessian": PublishedHessian(num_samples=64, max_iterations=10, max_probes=10),
    # At the published rate: large steps from a random start would let rounding decide where they lead.
    "mode_connectivity": PublishedModeConnectivity(
        CurveSettings(start="random", num_steps=3, batch_size=32, learning_rate=0.01), num_points=3
    ),
    "cka": PublishedCKA(num_batches=1, batch_size=64),
}
"""Those of the preset "reference", likewise."""


def test_the_tables_hold_every_metric():
    assert SMALL.keys() == METRICS.keys()
    for name, metric in METRICS.items():
        assert type(metric.of_preset("reference")) is type(PUBLISHED.get(name, SMALL[name]))


@functools.cache
def rows_of(metric, family, form):
    members, plan = None if metric.frame == "models" else [(0, 1), (1, 2)], forms()[form]
    if family == "normalised":
        return measured(metric, *normalised(), flat_examples(200, 220), members=members, plan=plan)
    architecture, params, state = trained(family)
    if family == "resnet10" and hasattr(metric, "num_samples"):
        metric = dataclasses.replace(metric, num_samples=16)
    # XLA's own convolutions compile in half the time; the others run as they do on a CPU.
    model = architecture.model("lax" if family == "resnet10" else "patches")
    data = examples(48 if family == "resnet10" else 200)
    return measured(metric, model, params, state, data, members=members, plan=plan)


def cases():
    """All forms for the MLP and what is measured by default; else those that hold vmap, map, chunks, padding, a mesh.

    The published recipes share their programs' parts with the others, so that larger networks, and vmap alone, are left
    to those. A small network with BatchNorm is measured by the metrics that are measured by default, a ResNet by their
    losses.

    MDJAX_EXHAUSTIVE=1 crosses everything with everything.
    """
    both = ("vmap", "sharded over models and data")
    parameters = "sharded over parameters too"
    for metric in [*SMALL.values(), *PUBLISHED.values()]:
        exhaustive, published = bool(os.environ.get("MDJAX_EXHAUSTIVE")), metric in PUBLISHED.values()
        forms_of = {"mlp": FORMS if exhaustive or (metric.by_default and not published) else ("vmap", parameters)}
        if published and not exhaustive:
            forms_of["mlp"] = both[1:]
        if exhaustive or not published:
            forms_of["cnn"] = both if exhaustive or metric.by_default else both[1:]
        if exhaustive or (metric.by_default and not published):
            forms_of["normalised"] = both
        if exhaustive or metric is SMALL["losses"]:
            forms_of["resnet10"] = both
        for family, names in forms_of.items():
            # On a CPU groups of devices cannot split a convolutional network's parameters (`test_plan`).
            for form in [form for form in (FORMS if exhaustive else names) if family == "mlp" or form != parameters]:
                marks = [pytest.mark.slow] if family == "resnet10" else []
                yield pytest.param(metric, family, form, id=f"{type(metric).__name__}-{family}-{form}", marks=marks)


@pytest.mark.parametrize(("metric", "family", "form"), list(cases()))
def test_results_do_not_depend_on_the_form(metric, family, form):
    for found, single in zip(rows_of(metric, family, form), rows_of(metric, family, "single"), strict=True):
        check_alike(found, single, form)
