"""The engine: company, padding, batching, broken models, compilations; and the registry of metrics."""

import jax
import numpy as np
import pytest
from helpers import examples, trained

from mdjax import engine, trees
from mdjax.curves import CurveSettings
from mdjax.errors import InputError
from mdjax.metrics import CKA, METRICS, PRESETS, Hessian, Losses, ModeConnectivity, select

FAMILIES = ["mlp", "cnn", pytest.param("resnet18", marks=pytest.mark.slow)]


def measure_any(metric, model, params, state, names, **options):
    data = examples(200)
    if metric.scope == "pair":
        return engine.measure_pairs(metric, model, params, state, [(0, 1), (1, 2)], data, ["a|b", "b|c"], **options)
    if metric.scope == "features":
        features = engine.measure_features(metric, model, params, state, data, **options)
        return [metric.compare(features[0], features[1]), metric.compare(features[1], features[2])]
    return engine.measure_models(metric, model, params, state, data, names, **options)


SMALL = {
    "losses": Losses(),
    "hessian": Hessian(num_samples=64, max_steps=20, trace_tolerance=0.1),
    "mode_connectivity": ModeConnectivity(CurveSettings(num_steps=20, batch_size=32), num_points=3),
    "cka": CKA(num_batches=1, batch_size=64),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SMALL)
def test_company_padding_and_batching_change_nothing(family, name):
    metric = SMALL[name]
    architecture, params, state = trained(family)
    names = ["a", "b", "c"]
    reference = measure_any(metric, architecture.model("patches"), params, state, names, batching="loop")
    forms = {
        "vmap": (architecture.model("patches"), {"batching": "vmap"}),
        "padded": (architecture.model("patches"), {"batching": "vmap", "pad_to": 5}),
        "lax": (architecture.model("lax"), {"batching": "loop"}),
    }
    if family == "resnet18":  # each form takes long to compile
        forms = {"padded": forms["padded"]}
    for form, (model, options) in forms.items():
        rows = measure_any(metric, model, params, state, names, **options)
        for row, expected in zip(rows, reference, strict=True):
            for column in expected.keys() - {"status", "hessian_eigenvalue_residual", "hessian_products"}:
                tolerance = 1e-5
                if column.startswith("hessian_trace"):
                    # Late Lanczos vectors amplify rounding: another sample of the same trace.
                    tolerance = 3 * expected["hessian_trace_se"] + 1e-5
                np.testing.assert_allclose(
                    row[column], expected[column], rtol=1e-5, atol=tolerance, err_msg=f"{form} {column}"
                )


@pytest.mark.parametrize("name", ["losses", "hessian"])
def test_a_model_alone_is_the_same_to_the_last_bit(name):
    architecture, params, state = trained("cnn")
    model = architecture.model("patches")
    together = measure_any(SMALL[name], model, params, state, ["a", "b", "c"], batching="loop")
    alone = measure_any(SMALL[name], model, *trees.take((params, state), [1]), ["b"], batching="loop")
    assert alone[0] == together[1]


def test_a_broken_model_harms_nobody():
    architecture, params, state = trained("mlp")
    broken = jax.tree.map(np.array, params)
    broken["linear"]["kernel"][1] = np.nan
    for metric in (Losses(), Hessian(num_samples=64)):
        clean = engine.measure_models(metric, architecture.model(), params, state, examples(), ["a", "b", "c"])
        rows = engine.measure_models(metric, architecture.model(), broken, state, examples(), ["a", "b", "c"])
        assert rows[0] == clean[0]
        assert rows[2] == clean[2]
        assert any(np.isnan(value) for value in rows[1].values() if isinstance(value, float))


def test_one_compilation_per_shape():
    architecture, params, state = trained("cnn")
    metric = Losses()
    for count, num_train in ((3, 100), (3, 300), (2, 100)):
        engine.measure_models(
            metric,
            architecture.model(),
            *trees.take((params, state), range(count)),
            examples(num_train),
            ["a", "b", "c"][:count],
            pad_to=7,
        )
        if count == 3 and num_train == 100:
            compiled = engine._run_model._cache_size()
    assert engine._run_model._cache_size() == compiled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slow", None), "Unknown preset 'slow'. Choose one of default, fast."),
        (("default", "hesian"), "Unknown metric 'hesian'. Choose from losses, hessian"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        select(*arguments)


def test_presets_hold_every_metric_once():
    for preset, changed in PRESETS.items():
        assert [metric.name for metric in select(preset)] == ["losses", "hessian", "mode_connectivity", "cka"]
        assert changed.keys() <= METRICS.keys()
        assert all(name == metric.name for name, metric in changed.items())
    assert [metric.name for metric in select("fast", "cka, losses")] == ["losses", "cka"]
