"""A loss summed over batches → its Hessian or Gauss–Newton matrix as products with flat vectors."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mdjax.errors import InputError
from mdjax.landscape import budgets

PyTree = Any
Matvec = Callable[[jax.Array], jax.Array]

Operator = Literal["hessian", "gauss_newton"]
"""The Hessian ∇²L, or the generalised Gauss–Newton matrix Σ Jᵀ (∇²ℓ) J, with J the Jacobian of the model's outputs."""


class Products(NamedTuple):
    """A symmetric matrix A known by its products.

    `matvec` v[p] → A v [p]; `block` V[k, p] → the k products A vᵢ [k, p], which share one linearisation; `size` is p.
    """

    matvec: Matvec
    block: Matvec
    size: int


def curvature_products(
    outputs: Callable[[PyTree, PyTree], jax.Array],
    loss: Callable[[jax.Array, PyTree], jax.Array],
    params: PyTree,
    batches: PyTree,
    *,
    operator: Operator = "hessian",
    max_bytes: float | None = None,
    probes_at_once: int | None = None,
) -> Products:
    """Products with the curvature of Σ_b loss(outputs(params, batch_b), batch_b), on params raveled to p numbers.

    `batches` is a pytree with the batches on axis 0. `outputs(params, batch)` are the model's outputs (any shape) and
    `loss(outputs, batch)` is the batch's *contribution* to the total loss, so the batches' matrices add up. For the
    Hessian the split does not matter; Gauss–Newton drops the curvature of `outputs` and is positive semi-definite
    where `loss` is convex.

    Where there are at most four batches and the intermediates of all of them fit `max_bytes`, they are computed once
    and a product is one linear pass over them; else every product, or block of products, recomputes them batch by
    batch. Of a block, `probes_at_once` products run side by side and the rest in turn: on CPU one at a time is the
    fastest, since side by side the patches of a convolution leave the caches. Both are by default what the plan says
    (`mdjax.landscape.budgets`), and 1 GiB and one at a time outside of it.
    Cost of a product, counted in matrix products per layer, where a gradient takes 3: Hessian 6, Gauss–Newton 4; 3
    and 2 more, once per block, where intermediates are recomputed. Raises InputError for an unknown operator.
    Sources: Pearlmutter, "Fast exact multiplication by the Hessian", 1994; Schraudolph, "Fast curvature
    matrix-vector products for second-order gradient descent", 2002.
    """
    flat, unravel = ravel_pytree(params)
    prepare = functools.partial(_operator(operator).product, outputs, loss, unravel, flat)
    matvec, block = _accumulated(prepare, batches, max_bytes, probes_at_once)
    return Products(matvec, block, flat.size)


def quadratic_forms(
    outputs: Callable[[PyTree, PyTree], jax.Array],
    loss: Callable[[jax.Array, PyTree], jax.Array],
    params: PyTree,
    batches: PyTree,
    *,
    operator: Operator = "hessian",
    max_bytes: float | None = None,
    probes_at_once: int | None = None,
) -> Matvec:
    """The function V[k, p] → the k quadratic forms vᵢᵀ A vᵢ [k] of the matrix of `curvature_products`.

    A probe of the trace needs no more, and it costs half a product: 3 matrix products per layer for the Hessian (see
    `second_derivative`), 2 for Gauss–Newton. Intermediates are kept or recomputed as there, and are not shared with
    products except through the compiler. Raises InputError for an unknown operator.
    """
    flat, unravel = ravel_pytree(params)
    prepare = functools.partial(_operator(operator).form, outputs, loss, unravel, flat)
    return _accumulated(prepare, batches, max_bytes, probes_at_once)[1]


def hessian_matvec(
    loss: Callable[[PyTree, PyTree], jax.Array],
    params: PyTree,
    batches: PyTree,
    *,
    max_bytes: float | None = None,
) -> tuple[Matvec, int]:
    """The product v[p] → Hv[p] with H = Σ_b ∇² loss(params, batch_b), and the dimension p; see `curvature_products`."""
    products = curvature_products(loss, lambda value, batch: value, params, batches, max_bytes=max_bytes)
    return products.matvec, products.size


class ParameterGroups(NamedTuple):
    """The top-level modules of a model: `names`, and for each of the p raveled parameters its place in them [p]."""

    names: tuple[str, ...]
    places: jax.Array


def parameter_groups(params: PyTree) -> ParameterGroups:
    """Groups of the raveled parameters by the outermost key of the pytree, in the order in which they are raveled."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path[:1], simple=True) for path, _ in leaves]
    unique = tuple(dict.fromkeys(names))
    sizes = [math.prod(jnp.shape(leaf)) for _, leaf in leaves]
    places = jnp.asarray([unique.index(name) for name in names], jnp.int32)
    return ParameterGroups(unique, jnp.repeat(places, jnp.asarray(sizes), total_repeat_length=sum(sizes)))


def restricted(products: Products, mask: jax.Array) -> Products:
    """A's diagonal block of the parameters in mask[p], as a matrix of unchanged size that is zero elsewhere.

    `restricted(products, groups.places == i)` is the block of group i; i may be traced, so that one program serves
    all groups. Cost: that of `products`.
    """
    mask = mask.astype(jnp.float32)
    return Products(
        lambda vector: mask * products.matvec(mask * vector),
        lambda vectors: mask * products.block(mask * vectors),
        products.size,
    )


def _hessian_product(outputs: Callable, loss: Callable, unravel: Callable, flat: jax.Array, batch: PyTree) -> Matvec:
    return jax.linearize(jax.grad(lambda flat: loss(outputs(unravel(flat), batch), batch)), flat)[1]


def _hessian_form(outputs: Callable, loss: Callable, unravel: Callable, flat: jax.Array, batch: PyTree) -> Matvec:
    return second_derivative(lambda flat: loss(outputs(unravel(flat), batch), batch), flat)


def _gauss_newton(finish: Callable, outputs: Callable, loss: Callable, unravel: Callable, flat, batch) -> Matvec:
    values, forward = jax.linearize(lambda flat: outputs(unravel(flat), batch), flat)
    curvature = jax.linearize(jax.grad(lambda values: loss(values, batch)), values)[1]
    return jax.tree_util.Partial(finish, forward, curvature)


def _gauss_newton_product(forward: Matvec, curvature: Matvec, vector: jax.Array) -> jax.Array:
    backward = jax.linear_transpose(forward, vector)
    return backward(curvature(forward(vector)))[0]


def _gauss_newton_form(forward: Matvec, curvature: Matvec, vector: jax.Array) -> jax.Array:
    tangent = forward(vector)
    return jnp.vdot(tangent, curvature(tangent))


class _Operator(NamedTuple):
    """What makes an operator's product and quadratic form for one batch, as pytrees of arrays that can be called."""

    product: Callable[..., Matvec]
    form: Callable[..., Matvec]


_OPERATORS = {
    "hessian": _Operator(_hessian_product, _hessian_form),
    "gauss_newton": _Operator(
        functools.partial(_gauss_newton, _gauss_newton_product), functools.partial(_gauss_newton, _gauss_newton_form)
    ),
}


def _operator(name: str) -> _Operator:
    if name not in _OPERATORS:
        raise InputError(f"Unknown operator {name!r}. Choose one of {', '.join(_OPERATORS)}.")
    return _OPERATORS[name]


def second_derivative(function: Callable[[jax.Array], jax.Array], point: jax.Array) -> Matvec:
    """v[p] → d²/dt² function(point + t v) at t = 0, for a scalar `function`, without a backward pass per vector.

    With z̄ₑ the adjoint of the result of elementary operation fₑ, the second derivative of the composition is
    Σₑ ⟨z̄ₑ, fₑ''[zₑ', zₑ']⟩, where zₑ' are the tangents of fₑ's inputs. Adjoints belong to the point alone, so a
    vector costs one forward pass of tangents and one evaluation of fₑ'' per curved operation: for a layer 3 matrix
    products, as many as a gradient, where a Hessian-vector product takes 6. Calls are taken apart; loops, branches
    and functions with a derivative of their own (`scan`, `cond`, `custom_jvp`, ...) count as one operation each, which
    is right too, but saves nothing inside them.
    Source: the second-order chain rule (Griewank & Walther, Evaluating Derivatives, 2008, section 5).
    """
    program = jax.make_jaxpr(function)(point)
    is_curved: dict[tuple[int, tuple[bool, ...]], bool] = {}
    operations: list[_Operation] = []

    def run(point: jax.Array, shifts: list[list[jax.Array]] | None) -> tuple[jax.Array, _Record]:
        """The function with `shifts` added to the results of its curved operations, and what those saw."""
        record = _Record([], [])
        operations.clear()

        def visit(operation: _Operation, inputs: list[jax.Array], results: list[jax.Array]) -> list[jax.Array]:
            key = id(operation.program.eqns[0]), operation.live
            if key not in is_curved:
                is_curved[key] = operation.is_curved(inputs)
            if not is_curved[key]:
                return results
            if shifts is not None:
                remaining = iter(shifts[len(operations)])
                results = [result + next(remaining) if _is_smooth(result) else result for result in results]
            operations.append(operation)
            record.inputs.append(inputs)
            record.results.append(list(filter(_is_smooth, results)))
            return results

        values = _evaluate(program.jaxpr, program.consts, [point], (True,), visit)[0]
        return values[0], record

    def seen(point: jax.Array) -> tuple[list, _Record]:
        record = run(point, None)[1]
        return _live_inputs(operations, record.inputs), record

    # The record comes from the differentiated run: operations with a derivative of their own compute otherwise there.
    _, tangents, record = jax.linearize(seen, point, has_aux=True)
    adjoints = jax.grad(lambda shifts: run(point, shifts)[0])(jax.tree.map(jnp.zeros_like, record.results))
    frozen = tuple(operations)

    def form(tangents: Matvec, inputs: list, adjoints: list, vector: jax.Array) -> jax.Array:
        total = jnp.zeros((), vector.dtype)
        for operation, *arrays in zip(frozen, inputs, tangents(vector), adjoints, strict=True):
            total += operation.form(*arrays)
        return total

    return jax.tree_util.Partial(form, tangents, record.inputs, adjoints)


class _Record(NamedTuple):
    """What the curved operations of a program were given and gave, in the order in which they ran."""

    inputs: list[list[jax.Array]]
    results: list[list[jax.Array]]


class _Operation(NamedTuple):
    """A program of one equation, and which of its inputs depend on the point."""

    program: Any
    live: tuple[bool, ...]

    def apply(self, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        return jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(self.program, ()))(*inputs)

    def second(self, inputs: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> list[jax.Array]:
        """f''[t, t] of the results in floating point, for the tangents of the live inputs."""

        def results(*varied: jax.Array) -> list[jax.Array]:
            remaining = iter(varied)
            values = [next(remaining) if live else x for x, live in zip(inputs, self.live)]
            return list(filter(_is_smooth, self.apply(values)))

        def directional(*varied: jax.Array) -> list[jax.Array]:
            return jax.jvp(results, varied, tuple(tangents))[1]

        varied = tuple(x for x, live in zip(inputs, self.live) if live)
        return jax.jvp(directional, varied, tuple(tangents))[1]

    def form(self, inputs: Sequence[jax.Array], tangents: Sequence[jax.Array], adjoints: Sequence[jax.Array]):
        return sum(map(jnp.vdot, adjoints, self.second(inputs, tangents)))

    def is_curved(self, inputs: Sequence[jax.Array]) -> bool:
        """Whether f'' depends on the tangents at all, read off the program that computes it."""
        tangents = [x for x, live in zip(inputs, self.live) if live]
        program = jax.make_jaxpr(functools.partial(self.second, inputs))(tangents).jaxpr
        dependent = set(program.invars)
        for equation in program.eqns:
            if any(not isinstance(var, jax.extend.core.Literal) and var in dependent for var in equation.invars):
                dependent.update(equation.outvars)
        return any(not isinstance(var, jax.extend.core.Literal) and var in dependent for var in program.outvars)


def _is_smooth(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def _live_inputs(operations: Sequence[_Operation], inputs: list[list[jax.Array]]) -> list[list[jax.Array]]:
    return [
        [x for x, live in zip(values, operation.live) if live]
        for operation, values in zip(operations, inputs, strict=True)
    ]


def _evaluate(
    program: Any,
    constants: Sequence[Any],
    inputs: Sequence[Any],
    live: Sequence[bool],
    visit: Callable[[_Operation, list[jax.Array], list[jax.Array]], list[jax.Array]],
) -> tuple[list[jax.Array], list[bool]]:
    """Run a jaxpr; operations on live inputs (those that depend on the point) pass their results through `visit`."""
    values = dict(zip(program.constvars, constants, strict=True)) | dict(zip(program.invars, inputs, strict=True))
    alive = {var for var, is_live in zip(program.invars, live, strict=True) if is_live}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom]

    def is_alive(atom: Any) -> bool:
        return not isinstance(atom, jax.extend.core.Literal) and atom in alive

    for equation in program.eqns:
        if equation.primitive.name in ("jit", "pjit", "closed_call"):
            inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
            arguments, arguments_live = list(map(read, equation.invars)), list(map(is_alive, equation.invars))
            results, results_live = _evaluate(inner.jaxpr, inner.consts, arguments, arguments_live, visit)
        else:
            # A variable may be read twice, and its tangent must then count twice.
            variables = [atom for atom in equation.invars if not isinstance(atom, jax.extend.core.Literal)]
            variables = list(dict.fromkeys(variables))
            alone = program.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation])
            operation = _Operation(alone, tuple(map(is_alive, variables)))
            arguments = [values[var] for var in variables]
            results = operation.apply(arguments)
            results_live = [any(operation.live) and _is_smooth(result) for result in results]
            if any(results_live):
                results = visit(operation, arguments, results)
        values.update(zip(equation.outvars, results, strict=True))
        alive.update(var for var, is_live in zip(equation.outvars, results_live, strict=True) if is_live)
    return [read(atom) for atom in program.outvars], [is_alive(atom) for atom in program.outvars]


_MOST_KEPT = 4
"""Batches whose intermediates are kept, at most: the program, and the time to compile it, grow with each."""


def _accumulated(
    linearized: Callable[[PyTree], Matvec], batches: PyTree, max_bytes: float | None, probes_at_once: int | None
) -> tuple[Matvec, Matvec]:
    """The sum over batches of functions of a vector, each given by `linearized(batch)`: for one vector, for a block."""
    budget = budgets.current()
    kept_bytes = budget.kept_bytes if max_bytes is None else max_bytes
    at_once = budget.probes_at_once if probes_at_once is None else probes_at_once
    count = len(jax.tree.leaves(batches)[0])

    def batch_of(index: int) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[index], batches)

    def over_probes(function: Matvec, vectors: jax.Array) -> jax.Array:
        together = min(at_once, len(vectors))
        return jax.lax.map(function, vectors, batch_size=together if together > 1 else None)

    residuals = jax.tree.leaves(jax.eval_shape(lambda: linearized(batch_of(0))))
    needed_bytes = count * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in residuals)
    if count <= _MOST_KEPT and needed_bytes <= kept_bytes:
        # One linear map for each batch rather than a scan: its intermediates are then plain constants of the
        # loops over probes, which XLA need not carry through them. The program grows by each of them.
        parts = [linearized(batch_of(index)) for index in range(count)]

        def single(vector: jax.Array) -> jax.Array:
            return functools.reduce(jnp.add, [part(vector) for part in parts])

        return single, functools.partial(over_probes, single)

    def total(apply: Callable[[Matvec, jax.Array], jax.Array], vectors: jax.Array) -> jax.Array:
        def contribution(batch: PyTree) -> jax.Array:
            return apply(linearized(batch), vectors)

        def add_batch(total: jax.Array, batch: PyTree) -> tuple[jax.Array, None]:
            return total + contribution(batch), None

        first = jax.eval_shape(contribution, jax.tree.map(lambda leaf: leaf[0], batches))
        return jax.lax.scan(add_batch, jnp.zeros(first.shape, first.dtype), batches)[0]

    return functools.partial(total, lambda part, vector: part(vector)), functools.partial(total, over_probes)
