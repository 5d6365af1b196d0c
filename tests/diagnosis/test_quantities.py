"""Quantities: their scales, values and errors."""

import numpy as np
import pytest

from mdjax.diagnosis.quantities import QUANTITIES, quantity, with_errors, with_quantities


@pytest.mark.parametrize("name", [*QUANTITIES, "hessian_t"])
def test_scales_keep_the_order_and_have_an_inverse(name):
    this = quantity(name)
    values = this.sign * np.array([0.0, 1e-4, 0.01, 0.3, 5.0, 70.0])[:: this.sign]
    scaled = this.to_scale(values)
    assert (np.diff(scaled) > 0).all()
    np.testing.assert_allclose(this.from_scale(scaled), values, rtol=1e-9, atol=1e-15)
    slope = (this.to_scale(values * (1 + 1e-7)) - this.to_scale(values * (1 - 1e-7))) / 2
    np.testing.assert_allclose(this.error_on_scale(values, np.abs(values) * 1e-7), np.abs(slope), rtol=1e-6)


def test_quantities_and_their_errors():
    columns = {
        "train_error": np.array([2.0, 9.0, np.nan]),
        "mode_connectivity_peak": np.array([-5.0, -4.0, -4.0]),
        "hessian_t": np.array([5.0, 6.0, 7.0]),
        "train_loss": np.array([1e-3, 0.5, 1.0]),
    }
    found = with_quantities(["barrier", "trace_for_loss"], columns)
    np.testing.assert_array_equal(found["barrier"], [3.0, 0.0, np.nan])
    np.testing.assert_allclose(found["trace_for_loss"], [5 - 0.75 * 6.8978, 6 - 0.75 * 0.6931, 7], rtol=1e-4)
    errors = {"train_error": np.full(3, 0.3), "mode_connectivity_peak": np.full(3, 0.4), "hessian_t": np.zeros(3)}
    spread = with_errors(["barrier"], columns, errors)["barrier"]
    np.testing.assert_allclose(spread, [0.5, 0.0, 0.0], atol=1e-12)
    assert quantity("barrier").of_pairs
    assert not quantity("trace_for_loss").of_pairs
    assert quantity("my_column").reads == ("my_column",)
