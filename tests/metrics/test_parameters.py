"""Which parameters count: curvature and curves of networks with frozen ones, against float64 and PyHessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_networks import NETWORKS, NUM_EXAMPLES, arrays, data, dense_matrix, mlp, network, torch_module
from helpers import measured

from mdjax.errors import InputError
from mdjax.landscape.curves import CurveSettings, straight_bends, trained_curve
from mdjax.metrics import Density, Examples, Hessian, ModeConnectivity, PublishedHessian, Surface
from mdjax.models import FunctionModel

NAMES = pytest.mark.parametrize("name", NETWORKS)


def examples():
    inputs, labels = map(jnp.asarray, data())
    return Examples(inputs, labels, jnp.asarray(NUM_EXAMPLES), inputs[:5], labels[:5])


def row(metric, name, model=None):
    own, params, state = network(name)
    stacked = jax.tree.map(lambda leaf: leaf[None], (params, state))
    return measured(metric, model or own, *stacked, examples(), ["a"])[0]


@NAMES
@pytest.mark.parametrize("parameters", ["trainable", "all"])
def test_eigenvalues_and_trace_are_those_of_the_parameters_that_count(name, parameters):
    whole, kept = dense_matrix(name)
    matrix = whole[np.ix_(kept, kept)] if parameters == "trainable" else whole
    eigenvalues = np.linalg.eigvalsh(matrix)
    found = row(Hessian(num_eigenvalues=2, num_smallest=1, parameters=parameters), name)
    np.testing.assert_allclose(found["hessian_eigenvalues"], eigenvalues[:-3:-1], rtol=1e-5)
    assert found["hessian_smallest"] == pytest.approx(eigenvalues[0], rel=1e-4, abs=1e-6)
    assert found["hessian_trace"] == pytest.approx(np.trace(matrix), abs=5 * found["hessian_trace_se"] + 1e-5)


@NAMES
def test_the_density_is_per_parameter_that_counts(name):
    whole, kept = dense_matrix(name)
    eigenvalues = np.linalg.eigvalsh(whole[np.ix_(kept, kept)])
    found = row(Density(num_runs=16, num_steps=8), name)
    for degree in (1, 2, 3):
        error = 5 * found["density_moments_se"][degree - 1]
        assert found["density_moments"][degree - 1] == pytest.approx(np.mean(eigenvalues**degree), abs=error)


@NAMES
def test_directions_move_the_trained_parameters_alone(name):
    whole, kept = dense_matrix(name)
    matrix = whole[np.ix_(kept, kept)]
    model, params, _ = network(name)
    squares = [
        np.sum(np.square(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if not jax.tree_util.keystr(path).startswith(model.frozen)
    ]
    found, other = (row(Surface("random", num_points=3, parameters=which), name) for which in ("trainable", "all"))
    # vᵀHv of a v as long as the trained parameters lies within the spectrum of their own matrix.
    low, high = np.linalg.eigvalsh(matrix)[[0, -1]] * np.sum(squares)
    assert low <= found["surface_curvature"][0] <= high
    assert found["surface_loss"][1] == pytest.approx(other["surface_loss"][1], rel=1e-6)
    assert found["surface_loss"][0] != other["surface_loss"][0]


def test_eigenvectors_and_the_published_recipe_leave_out_what_is_frozen():
    name = "normalisation's scale"
    whole, kept = dense_matrix(name)
    eigenvalues = np.linalg.eigvalsh(whole[np.ix_(kept, kept)])
    found = row(Surface("hessian", dimensions=2, num_points=3), name)
    np.testing.assert_allclose(found["surface_curvature"], eigenvalues[:-3:-1], rtol=1e-4)
    found = row(PublishedHessian(num_samples=NUM_EXAMPLES, tolerance=1e-6), name)
    assert found["hessian_eigenvalue"] == pytest.approx(eigenvalues[-1], rel=1e-3)


def test_paths_name_the_parameters_that_count(name="biases"):
    whole, _ = dense_matrix(name)
    _, params, _ = network(name)
    sizes = {layer: sum(np.size(leaf) for leaf in jax.tree.leaves(own)) for layer, own in sorted(params.items())}
    before = sum(size for layer, size in sizes.items() if layer < "second")
    block = whole[before:, before:]
    found = row(Hessian(parameters=("['second']",), by_layer=True), name)
    assert found["hessian_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-5)
    assert found["hessian_layers"] == ["second"]
    kernel = block[3:, 3:]
    found = row(Hessian(parameters=("['second']['kernel']",), operator="gauss_newton"), name)
    # Linear in the last layer: its Gauss–Newton block is its Hessian.
    assert found["gauss_newton_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(kernel)[-1], rel=1e-5)


@NAMES
def test_frozen_parameters_are_those_that_pyhessian_leaves_out(name):
    torch = pytest.importorskip("torch")
    pyhessian = pytest.importorskip("pyhessian")
    inputs, labels = data()
    module, (model, params, state) = torch_module(name), network(name)
    logits = module(torch.from_numpy(inputs)).detach().numpy()
    np.testing.assert_allclose(model.apply(params, state, inputs), logits, rtol=1e-4, atol=1e-5)
    batch = torch.from_numpy(inputs), torch.from_numpy(labels)
    theirs = pyhessian.hessian(module, torch.nn.CrossEntropyLoss(), data=batch, cuda=False)
    expected = theirs.eigenvalues(maxIter=500, tol=1e-7)[0][0]
    found = row(Hessian(num_eigenvalues=2, num_smallest=1), name)
    assert found["hessian_eigenvalue"] == pytest.approx(expected, rel=1e-4)
    assert np.linalg.eigvalsh(dense_matrix(name)[0])[-1] > 1.001 * expected


@pytest.mark.parametrize("metric", [Hessian, Density])
def test_nothing_changes_to_the_bit_where_nothing_is_frozen(metric):
    model = FunctionModel(mlp)
    assert row(metric(), "biases", model) == row(metric(parameters="all"), "biases")


@pytest.mark.parametrize("settings", [CurveSettings(num_steps=5), CurveSettings("chain", 2, num_steps=5)])
def test_frozen_parameters_stay_on_the_line_and_the_others_bend_as_if_they_were_constants(settings):
    first, second = (network("first layer", seed)[1] for seed in (1, 2))
    shared = {**second, "first": first["first"]}
    batch = examples().train

    def curve(model, start, end, counted=None):
        return jax.jit(lambda: trained_curve(model, settings, start, end, {}, batch, jax.random.key(3), counted))()

    # In the order of the leaves: both arrays of "first", then both of "second".
    counted = (False, False, True, True)
    found = curve(FunctionModel(mlp), first, second, counted)
    line = straight_bends(first, second, settings.num_bends)
    jax.tree.map(np.testing.assert_array_equal, found.bends["first"], line["first"])
    assert not np.allclose(found.bends["second"]["kernel"], line["second"]["kernel"])
    alone = curve(
        FunctionModel(lambda params, _, inputs: mlp({**params, "first": first["first"]}, _, inputs)),
        {"second": first["second"]},
        {"second": second["second"]},
    )
    found = curve(FunctionModel(mlp), first, shared, counted)
    for leaf, expected in zip(jax.tree.leaves(found.bends["second"]), jax.tree.leaves(alone.bends), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("start", ["midpoint", "random"])
def test_the_metric_of_curves_bends_the_trained_parameters(start):
    model = FunctionModel(mlp, ("['first']",))
    pair = [arrays(seed)[0] for seed in (1, 2)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[{**own, "norm": {}} for own in pair])
    settings = CurveSettings(start=start, num_steps=3)
    found = {
        which: measured(ModeConnectivity(settings, parameters=which), model, params, {}, examples(), ["a", "b"])[0]
        for which in ("trainable", "all", ("['second']",))
    }
    assert found["trainable"] == found[("['second']",)]
    assert found["trainable"]["curve_loss"][4] != found["all"]["curve_loss"][4]


@pytest.mark.parametrize(
    ("frozen", "parameters", "message"),
    [
        ((), ("['third']",), r"There is no parameter \"\['third'\]\". The model has \['first'\]\['bias'\], "),
        ((), ("['sec",), r"There is no parameter"),
        (("['norm']",), "trainable", r"There is no frozen parameter \"\['norm'\]\""),
        (["['first']"], "trainable", r"The model's frozen is \[\"\['first'\]\"\]. Give a tuple"),
        (("['first']", "['second']"), "trainable", "All parameters of the model are frozen. Set parameters=all"),
    ],
)
def test_paths_that_are_none_are_refused(frozen, parameters, message):
    class Own:
        def apply(self, params, state, inputs):
            return mlp(params, state, inputs)

        batch_apply = apply

    model = Own()
    model.frozen = frozen
    for metric in (Hessian, PublishedHessian, Density, Surface):
        with pytest.raises(InputError, match=message):
            row(metric(parameters=parameters), "biases", model)


@pytest.mark.parametrize("metric", [Hessian, PublishedHessian, Density, Surface, ModeConnectivity])
@pytest.mark.parametrize("parameters", ["frozen", (), ["['first']"], (1,)])
def test_other_words_for_parameters_are_refused(metric, parameters):
    with pytest.raises(InputError, match="Give all, trainable or, in Python, a tuple of paths"):
        metric(parameters=parameters)
