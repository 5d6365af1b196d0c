"""Connectivity of two models: its definitions, its forms of execution, and what spoils it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import examples, measured, trained
from model_pairs import pair

from mdjax.errors import InputError
from mdjax.landscape import curves
from mdjax.landscape.curves import CurveSettings
from mdjax.metrics.connectivity import LinearConnectivity, ModeConnectivity, PublishedModeConnectivity
from mdjax.statuses import Status, StatusCode


@pytest.mark.parametrize("family", ["mlp"])
def test_the_default_steps_end_lower_than_500_slow_ones(family):
    architecture, params, state = trained(family, 4)
    pairs, names = [(0, 1), (1, 2), (2, 3), (3, 0)], list("abcd")

    def peak(settings):
        arguments = (ModeConnectivity(settings), architecture.model("patches"), params, state, examples(), names)
        return -np.mean([row["mode_connectivity_peak"] for row in measured(*arguments, members=pairs)])

    assert peak(CurveSettings()) < peak(CurveSettings(num_steps=500, batch_size=128, learning_rate=0.01))


QUICK = {
    "midpoint": ModeConnectivity(CurveSettings(num_steps=4), num_points=3),
    "two bends": ModeConnectivity(CurveSettings(num_steps=4, num_bends=2), num_points=3),
    "chain": ModeConnectivity(CurveSettings(kind="chain", num_steps=4), num_points=3),
    "published": PublishedModeConnectivity(CurveSettings.published(epoch_factor=1, batch_size=180)),
    "line": LinearConnectivity(num_points=3),
}


@pytest.mark.parametrize("name", ["two bends", "chain", "published"])  # the others: tests/engine/test_execution.py
def test_forms_of_execution_agree(name):
    model, first, second, data = pair("normalised")
    data = dataclasses.replace(data, num_train=jnp.asarray(200), x_train=data.x_train[:220], y_train=data.y_train[:220])
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), (first, second), (second, first))
    keys = jax.random.split(jax.random.key(3), 2)
    metric = QUICK[name]

    def measure(ends, key):
        return metric.measure(model, *ends, data, key)

    alone = [jax.jit(measure)(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), keys[i]) for i in range(2)]
    batched = jax.jit(jax.vmap(measure))(stacked, keys)
    mapped = jax.jit(lambda ends, keys: jax.lax.map(lambda x: measure(*x), (ends, keys)))(stacked, keys)
    for i in range(2):
        for column, value in alone[i].items():
            for form in (batched, mapped):
                # An example at the boundary between two classes may fall on either side.
                atol = 0.51 if "error" in column else 0.0
                np.testing.assert_allclose(form[column][i], value, rtol=1e-5, atol=atol, err_msg=column)


@pytest.mark.parametrize("family", ["mlp", "normalised"])
@pytest.mark.parametrize("name", ["midpoint", "line"])
def test_ends_of_a_curve_are_checked_against_the_models(name, family):
    model, first, second, data = pair(family)
    raw = jax.jit(lambda key: QUICK[name].measure(model, first, second, data, key))(jax.random.key(0))
    columns = QUICK[name].columns(raw)
    prefix = "linear" if name == "line" else "curve"
    x, labels = np.asarray(data.x_train[:200]), np.asarray(data.y_train[:200])
    own = [100 * np.mean(np.asarray(model.apply(end[0], end[1], x)).argmax(-1) != labels) for end in (first, second)]
    curve = columns[f"{prefix}_error"]
    assert columns[f"{prefix}_end_gap"] == pytest.approx(max(abs(curve[0] - own[0]), abs(curve[-1] - own[1])), abs=1e-4)
    if family == "mlp":
        assert columns[f"{prefix}_end_gap"] == 0.0
        assert columns[f"{prefix}_end_loss_gap"] < 1e-5
    else:
        assert columns[f"{prefix}_end_loss_gap"] > 0.01


def test_linear_barriers_by_hand():
    model, (start, _), (end, _), data = pair("mlp")
    metric = LinearConnectivity(num_points=5)
    columns = metric.columns(jax.jit(lambda: metric.measure(model, (start, {}), (end, {}), data, jax.random.key(0)))())
    x, labels = np.asarray(data.x_train[:200], np.float64).reshape(200, -1), np.asarray(data.y_train[:200])
    losses, errors = [], []
    points = np.linspace(0, 1, 5)
    for t in points:
        w = jax.tree.map(lambda a, b, t=t: (1 - t) * np.asarray(a, np.float64) + t * np.asarray(b), start, end)
        hidden = x
        for layer in ("hidden0", "hidden1"):
            hidden = np.maximum(0, hidden @ w[layer]["kernel"] + w[layer]["bias"])
        logits = hidden @ w["linear"]["kernel"] + w["linear"]["bias"]
        scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-scores[np.arange(200), labels].mean())
        errors.append(100 * np.mean(logits.argmax(1) != labels))
    for name, values, tolerance in (("loss_barrier", losses, 1e-5), ("barrier", errors, 0.51)):
        chord = [(1 - t) * values[0] + t * values[-1] for t in points]
        expected = max(value - level for value, level in zip(values, chord))
        assert expected > 0
        assert columns[f"linear_{name}"] == pytest.approx(expected, abs=tolerance)
    np.testing.assert_allclose(columns["linear_loss"], losses, rtol=1e-5)


def raw_curve(error) -> dict[str, np.ndarray]:
    error = np.asarray(error, np.float64)
    ends = error[[0, -1]]
    points = np.linspace(0, 1, len(error))
    return {"t": points, "loss": error / 10, "error": error, "end_loss": ends / 10, "end_error": ends}


@pytest.mark.parametrize(
    ("error", "inner", "published", "peak"),
    [
        ([1, 3, 9, 2, 3], 2 - 9, 2 - 9, -9),
        ([8, 4, 1, 4, 8], 7, 7, -4),
        # The published argmax may land on an end.
        ([0, 5, 6, 5, 10], -1, 5, -6),
        ([0, 0, 0, 0, 0], 0, 0, 0),
    ],
)
def test_connectivity_definitions(error, inner, published, peak):
    for metric, expected in ((ModeConnectivity(), inner), (PublishedModeConnectivity(), published)):
        columns = metric.columns(raw_curve(error))
        assert columns["mode_connectivity"] == pytest.approx(expected)
        assert columns["mode_connectivity_peak"] == pytest.approx(peak)
        assert columns["curve_error"] == error
        assert "status" not in columns
        if peak == 0:
            assert np.copysign(1, columns["mode_connectivity_peak"]) == 1


@pytest.mark.parametrize("metric", [ModeConnectivity(), PublishedModeConnectivity(), LinearConnectivity()])
def test_a_curve_without_numbers_says_so(metric):
    broken = metric.columns(raw_curve([1, np.nan, 1, 1, 1]))
    assert broken["status"] == Status(StatusCode.DIVERGED, "curve diverged")
    results = [name for name in broken if name.endswith(("connectivity", "peak", "barrier"))]
    assert len(results) == 2
    assert all(math.isnan(broken[name]) for name in results)


@pytest.mark.parametrize("name", ["midpoint", "published", "line"])
def test_a_model_of_nan_weights_harms_nobody(name):
    model, first, second, data = pair("normalised")
    data = dataclasses.replace(data, x_train=data.x_train[:220], y_train=data.y_train[:220])
    metric = QUICK[name]
    broken = (jax.tree.map(lambda leaf: leaf * jnp.nan, first[0]), first[1])
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), (broken, second), (first, second))
    keys = jnp.stack([jax.random.key(0)] * 2)
    run = jax.jit(jax.vmap(lambda ends, key: metric.measure(model, *ends, data, key)))
    raw = run(stacked, keys)
    bad, good = (metric.columns({name: value[i] for name, value in raw.items()}) for i in range(2))
    assert bad["status"] == Status(StatusCode.NOT_FINITE, "a model at the curve's end has no finite loss")
    assert "status" not in good
    # Beside a healthy one the same numbers come out.
    healthy = run(jax.tree.map(lambda leaf: jnp.stack([leaf[1]] * 2), stacked), keys)
    np.testing.assert_array_equal(healthy["loss"][1], raw["loss"][1])


@pytest.mark.parametrize("metric", [ModeConnectivity, PublishedModeConnectivity, LinearConnectivity])
def test_a_curve_without_inner_points_is_refused(metric):
    with pytest.raises(InputError, match="num_points is 2"):
        metric(num_points=2)


def test_alignment_undoes_a_permutation():
    """A model and itself with its units renamed: a barrier on the line, and none after alignment."""
    model, first, _, data = pair("mlp")
    order = np.random.default_rng(0).permutation(4)
    renamed = {name: dict(layer) for name, layer in first[0].items()}
    renamed["hidden0"] = jax.tree.map(lambda leaf: leaf[..., order], first[0]["hidden0"])
    renamed["hidden1"]["kernel"] = first[0]["hidden1"]["kernel"][order]

    def barrier(align):
        metric = LinearConnectivity(num_points=3, align=align)
        raw = jax.jit(lambda: metric.measure(model, first, (renamed, {}), data, jax.random.key(0)))()
        return metric.columns(raw)["linear_loss_barrier"]

    assert barrier(False) > 0.05
    assert barrier(True) == pytest.approx(0, abs=1e-5)


class Masked:
    """A network of BatchNorm whose inputs go through an order, a mask and a scale that its state holds."""

    frozen = ()

    def __init__(self, inner):
        self.inner = inner

    def _inputs(self, state, inputs):
        return inputs[:, state["order"]] * state["mask"] * state["scale"] + 0 * state["counter"]

    def apply(self, params, state, inputs):
        return self.inner.apply(params, state["inner"], self._inputs(state, inputs))

    def batch_apply(self, params, state, inputs, weights):
        logits, inner = self.inner.batch_apply(params, state["inner"], self._inputs(state, inputs), weights)
        return logits, state | {"inner": inner}


OTHERS = {
    "the same": lambda state: state,
    "order": lambda state: state | {"order": jnp.arange(64)[::-1]},
    "mask": lambda state: state | {"mask": state["mask"].at[4].set(False)},
    "scale": lambda state: state | {"scale": jnp.asarray(0.5)},
    "counter": lambda state: state | {"counter": jnp.asarray(2**24 + 1)},
}


@pytest.mark.parametrize("metric", [LinearConnectivity(num_points=3), QUICK["midpoint"]], ids=lambda one: one.name)
def test_a_curve_between_models_of_other_orders_or_masks_has_no_numbers(metric):
    inner, first, second, data = pair("normalised")
    model = Masked(inner)
    kept = {
        "order": jnp.roll(jnp.arange(64), 5),
        "mask": jnp.arange(64) % 3 > 0,
        "scale": jnp.asarray(2.0),
        "counter": jnp.asarray(2**24),
    }
    start = (first[0], kept | {"inner": first[1]})
    run = jax.jit(lambda end: metric.measure(model, start, end, data, jax.random.key(0)))
    for name, change in OTHERS.items():
        columns = metric.columns(run((second[0], change(kept | {"inner": second[1]}))))
        numbers = [value for column, value in columns.items() if column.endswith(("connectivity", "barrier", "peak"))]
        if name == "the same":
            assert "status" not in columns
            assert np.isfinite(numbers).all()
        else:
            assert columns["status"].code is StatusCode.UNDEFINED, name
            assert np.isnan(numbers).all()


@pytest.mark.parametrize("name", ["mask", "gain"])
def test_what_hidden_units_share_goes_with_them_or_is_told(name):
    """Alignment reorders what the state holds of hidden units: with the first model's it would be another network."""
    rng = np.random.RandomState(0)
    held = {"mask": jnp.arange(8) < 4, "gain": jnp.linspace(0.2, 3, 8)}[name]

    class Hidden:
        frozen = ()

        def apply(self, params, state, inputs):
            return (jnp.tanh(inputs @ params["a"]) * state["held"]) @ params["b"]

        def batch_apply(self, params, state, inputs, weights):
            return self.apply(params, state, inputs), state

    first, second = (
        ({"a": rng.randn(64, 8).astype("f4") / 8, "b": rng.randn(8, 10).astype("f4")}, {"held": held}) for _ in range(2)
    )
    model, (_, _, _, data) = Hidden(), pair("normalised")
    for align in (False, True):
        metric = LinearConnectivity(num_points=3, align=align)
        columns = metric.columns(jax.jit(lambda m=metric: m.measure(model, first, second, data, jax.random.key(0)))())
        if "status" in columns:
            assert align
            assert columns["status"].code is StatusCode.UNDEFINED
        else:
            assert columns["linear_end_loss_gap"] == pytest.approx(0, abs=1e-6)


def test_a_state_of_floats_that_is_no_statistic_stays_to_the_last_bit():
    """An order kept in floats: a mean over batches would turn 3 into 2.9999998, and that into 2."""
    inner, first, second, data = pair("normalised")

    class Ordered:
        frozen = ()

        def apply(self, params, state, inputs):
            return inner.apply(params, state["inner"], inputs[:, state["order"].astype(int)])

        def batch_apply(self, params, state, inputs, weights):
            order = state["order"].astype(int)
            logits, found = inner.batch_apply(params, state["inner"], inputs[:, order], weights)
            return logits, {"inner": found, "order": state["order"]}

    order = jnp.arange(64, dtype=jnp.float32)[::-1]
    states = [{"inner": one[1], "order": order} for one in (first, second)]
    curve = curves.Curve("line", first[0], curves.straight_bends(first[0], second[0], 0), second[0])
    found = curves.reestimate_statistics(
        Ordered(), curve, states[0], data.train, points=jnp.linspace(0, 1, 3), batch_size=7
    )
    np.testing.assert_array_equal(found["order"], jnp.tile(order, (3, 1)))
    assert (np.asarray(found["inner"]["norm"]["mean"]) != np.asarray(first[1]["norm"]["mean"])).all()
