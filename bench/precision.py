"""What do fewer passes of bfloat16 cost in accuracy, as a TPU makes products of float32 numbers?

    python bench/precision.py [--passes 3,6] [--epochs 8,60] [--out FILE]

Small networks on the digits, trained for so many epochs. Every product and convolution of the programs is made of
products of bfloat16 parts, added in float32 as the matrix unit does: of three (`high`: all but the product of both
rests) or of six (`highest`). Last line JSON:

rows   network, epochs, passes; product, the largest relative error ‖found − exact‖/‖exact‖ of eight Hessian products
       with random vectors, exact in float64; eigenvalue_shift, trace_shift and loss_shift: |found − float32| over
       |float32| of the largest eigenvalue, the trace and the loss, made in float32
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from environment import environment
from jax.extend.core import ClosedJaxpr, Literal
from jax.flatten_util import ravel_pytree

from mdjax.engine.costs import scan_sizes
from mdjax.files import write_file
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.loss_curvature import loss_curvature
from mdjax.landscape.losses import evaluate
from mdjax.linalg.krylov import ritz_pairs
from mdjax.linalg.trace import deflated_trace
from mdjax.tasks import cross_entropy
from mdjax.zoo.data import load
from mdjax.zoo.grids import Setting
from mdjax.zoo.training import architecture_of, train_stack

NETWORKS = {"mlp": ("mlp", 4, 0), "cnn": ("cnn", 2, 0), "resnet10": ("resnet", 1, 10)}
NUM_SAMPLES = 64


def parts(values: jax.Array, count: int) -> list[jax.Array]:
    """The bfloat16 numbers, held in float32, that add up to the values but for a rest."""
    found = []
    for _ in range(count):
        found.append(jax.lax.reduce_precision(values, 8, 7))
        values = values - found[-1]
    return found


def in_passes(product: Callable[..., jax.Array], first: jax.Array, second: jax.Array, passes: int) -> jax.Array:
    """product(first, second), bilinear, of so many products of parts, the smallest ones added first."""
    count = {3: 2, 6: 3}[passes]
    a, b = parts(first, count), parts(second, count)
    pairs = sorted(((i, j) for i in range(count) for j in range(count) if i + j < count), key=sum, reverse=True)
    total = product(a[pairs[0][0]], b[pairs[0][1]])
    for i, j in pairs[1:]:
        total = total + product(a[i], b[j])
    return total


def emulated(function: Callable[..., Any], passes: int) -> Callable[..., Any]:
    """The function, with its products and convolutions in so many passes; 0: as they are."""

    def run(*arguments: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluated(program.jaxpr, program.consts, jax.tree.leaves(arguments), passes)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return jax.jit(run)


def _evaluated(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], passes: int) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def inner(program: Any, *given: Any) -> list[Any]:
        consts = program.consts if isinstance(program, ClosedJaxpr) else []
        return _evaluated(getattr(program, "jaxpr", program), consts, given, passes)

    for operation in jaxpr.eqns:
        name, params, given = operation.primitive.name, operation.params, list(map(read, operation.invars))
        if name in ("dot_general", "conv_general_dilated") and passes:

            def product(a: jax.Array, b: jax.Array, operation: Any = operation) -> jax.Array:
                return operation.primitive.bind(a, b, **operation.params)

            results = [in_passes(product, *given, passes)]
        elif name in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call"):
            results = inner(params.get("jaxpr") or params["call_jaxpr"], *given)
        elif name == "scan":
            first, num_carry = scan_sizes(params)

            def step(carry: list[Any], x: list[Any], consts: Any = given[:first], params: Any = params) -> Any:
                found = inner(params["jaxpr"], *consts, *carry, *x)
                return found[: len(carry)], found[len(carry) :]

            carry, rows = given[first : first + num_carry], given[first + num_carry :]
            carry, stacked = jax.lax.scan(step, carry, rows, length=params["length"], reverse=params["reverse"])
            results = [*carry, *stacked]
        elif name == "while":
            a, b = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
            results = jax.lax.while_loop(
                lambda state, given=given, a=a, params=params: inner(params["cond_jaxpr"], *given[:a], *state)[0],
                lambda state, given=given, a=a, b=b, params=params: inner(params["body_jaxpr"], *given[a:b], *state),
                given[b:],
            )
        elif name == "cond":
            branches = [lambda *x, branch=branch: inner(branch, *x) for branch in params["branches"]]
            results = jax.lax.switch(given[0], branches, *given[1:])
        else:
            results = operation.primitive.bind(*given, **operation.primitive.get_bind_params(params))
            results = results if operation.primitive.multiple_results else [results]
        values.update(zip(operation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def rows_of(name: str, epochs: int, all_passes: Sequence[int]) -> list[dict]:
    family, width, depth = NETWORKS[name]
    recipe = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "epochs": epochs, "seed": 0}
    setting = Setting(family=family, width=width, depth=depth, batch_size=64, data_share=0.5, label_noise=0.0, **recipe)
    data = load("digits")
    params, state = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), train_stack([setting], data))
    model = architecture_of(setting, data).model("lax")
    arrays = jnp.asarray(data.x_train[:NUM_SAMPLES]), jnp.asarray(data.y_train[:NUM_SAMPLES])
    vectors = jax.random.normal(jax.random.key(1), (8, ravel_pytree(params)[0].size))

    def products(params: Any, state: Any, x: jax.Array, y: jax.Array, vectors: jax.Array) -> jax.Array:
        examples = LabelledExamples(x, y, NUM_SAMPLES)
        return loss_curvature(model, params, state, examples, batch_size=NUM_SAMPLES).matmat(vectors)

    def estimates(params: Any, state: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        examples = LabelledExamples(x, y, NUM_SAMPLES)
        curvature = loss_curvature(model, params, state, examples, batch_size=NUM_SAMPLES)
        krylov, trace = deflated_trace(curvature, key)
        run = krylov.projected, krylov.off_diagonal, krylov.dropped, krylov.num_steps
        return run, trace.trace.value, evaluate(model, params, state, examples)[0]

    exact = _exact_products(model, params, state, arrays, vectors)
    found: dict[int, tuple] = {}
    for passes in (0, *all_passes):
        with jax.default_matmul_precision("highest"):
            multiplied = np.asarray(emulated(products, passes)(params, state, *arrays, vectors), np.float64)
            run, trace, loss = emulated(estimates, passes)(params, state, *arrays, jax.random.key(0))
        error = np.linalg.norm(multiplied - exact, axis=1) / np.linalg.norm(exact, axis=1)
        found[passes] = error.max(), ritz_pairs(*map(np.asarray, run)).values[-1], float(trace), float(loss)
    _, value, trace, loss = found[0]
    return [
        {
            "network": name,
            "epochs": epochs,
            "passes": passes or "float32",
            "product": float(f"{error:.2g}"),
            "eigenvalue_shift": float(f"{abs(own / value - 1):.2g}"),
            "trace_shift": float(f"{abs(own_trace / trace - 1):.2g}"),
            "loss_shift": float(f"{abs(own_loss / loss - 1):.2g}"),
        }
        for passes, (error, own, own_trace, own_loss) in found.items()
    ]


def _exact_products(model: Any, params: Any, state: Any, arrays: tuple, vectors: jax.Array) -> np.ndarray:
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, state, arrays[0], vectors)
        )
        flat, unravel = ravel_pytree(wide[0])

        def loss(flat: jax.Array) -> jax.Array:
            return jnp.mean(cross_entropy(model.apply(unravel(flat), wide[1], wide[2]), arrays[1]))

        product = jax.linearize(jax.grad(loss), flat)[1]
        return np.asarray(jax.jit(lambda vectors: jax.lax.map(product, vectors))(wide[3]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", default="3,6")
    parser.add_argument("--epochs", default="8,60")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.networks.split(","):
        for epochs in map(int, options.epochs.split(",")):
            rows += rows_of(name, epochs, [int(passes) for passes in options.passes.split(",")])
            for row in rows[-3:]:
                print(json.dumps(row), flush=True)
    result = {"rows": rows} | environment()
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
