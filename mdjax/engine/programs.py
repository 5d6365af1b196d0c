"""A metric and the shapes of its models → the compiled program that runs as many of them at a time as memory takes.

The only place, beside training, that compiles and shards.
"""

import errno
import functools
import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdjax.engine.convolutions import with_safe_convolutions
from mdjax.engine.costs import OperationCount
from mdjax.engine.packing import packed_bytes
from mdjax.engine.plan import Plan, default_plan, memory_budget, platform_of
from mdjax.engine.program_cache import PROGRAMS
from mdjax.engine.targets import DATA, MODELS, SHARDS
from mdjax.errors import InputError
from mdjax.landscape.limits import ProductLimits, limited
from mdjax.landscape.split_vectors import over_shards, split_spec
from mdjax.metrics import Examples, Metric
from mdjax.models import Model

PyTree = Any


class Need(NamedTuple):
    """What one compiled call takes.

    chunk_size: models (or pairs) on each device.
    bytes: of each device's memory, by the compiler's account: arguments, results and what is between.
    added_bytes: those of them that come with the call, the data being there before it.
    """

    chunk_size: int
    bytes: int
    added_bytes: int


class Programs:
    """The compiled programs of a sweep, made as `plan` says (default: what suits the backend).

    Keeps what the sweep learns of the memory: where fewer models go together than planned. Compiled code itself is
    shared by all sweeps of the process.
    """

    def __init__(self, plan: Plan | None = None):
        self.plan = plan or default_plan()
        self._most: dict[tuple[Metric, Model], int] = {}
        self._sizes: dict[Hashable, int] = {}

    def fitting(self, metric: Metric, model: Model, run: PyTree, shared: PyTree, count: int) -> tuple[Any, Need]:
        """The program for as many runs at a time as are planned, needed and fit the memory.

        metric: the metric, whose traced half is compiled.
        model: the model it is called on.
        run: shapes of one run's arguments, (weights, key).
        shared: shapes of what all runs are given.
        count: how many runs there are.

        Where the compiler itself refuses for lack of memory, fewer are tried; its error is raised where it refuses one.
        """
        plan, most = self.plan, self._most.get((metric, model), self.plan.chunk_size)
        # Powers of two, so that stacks of different length share a few programs.
        chunk = min(plan.chunk_size, most, 2 ** (-(-count // plan.num_groups) - 1).bit_length())
        budget, options = memory_budget(plan), plan.compiler_options_of(metric.compiles_lightly)
        while True:
            stacked = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((chunk * plan.num_groups, *leaf.shape), leaf.dtype), run
            )
            leaves, structure = jax.tree.flatten((stacked, shared))
            what = metric, model, plan.batching_of(chunk), plan.limits_of(chunk), plan.mesh
            key = ("metric", *what, plan.effort, structure, tuple(leaves))
            try:
                program = self._program(key, lambda: _compiled(*what, stacked, shared, options))
            except jax.errors.JaxRuntimeError as error:
                if chunk == 1 or not is_shortage(error):
                    raise
                chunk //= 2
                self.take_at_most(metric, model, chunk)
                continue
            size = self._bytes_of(key, program)
            if size <= budget or chunk == 1:
                there = sum(_bytes_of(leaf) for leaf in jax.tree.leaves(shared))
                return program, Need(chunk, size, max(0, size - there))
            chunk = max(1, min(chunk // 2, chunk * budget // size))
            self.take_at_most(metric, model, chunk)

    def _program(self, key: Hashable, compile: Callable[..., Any]) -> Any:
        """The program of a key; of a target it is looked at once and not kept, since nothing will run it."""
        return PROGRAMS.get(key, compile) if self.plan.target is None else compile()

    def _bytes_of(self, key: Hashable, program: Any) -> int:
        """What a call of a program takes on a device."""
        if key not in self._sizes:
            account = program.memory_analysis()
            size = account.temp_size_in_bytes + account.argument_size_in_bytes + account.output_size_in_bytes
            if self.plan.platform == "cpu":
                size += packed_bytes(program.as_text())
            self._sizes[key] = size
        return self._sizes[key]

    def take_at_most(self, metric: Metric, model: Model, chunk_size: int) -> None:
        """Remember that no more of the model's runs fit the memory at a time."""
        self._most[metric, model] = chunk_size

    def need(self, metric: Metric, model: Model, weights: PyTree, data: Examples, count: int) -> Need:
        """What measuring models (or pairs) takes, by compiling the program; nothing is run. Arguments: as `planned`."""
        return self.planned(metric, model, weights, data, count)[1]

    def planned(self, metric: Metric, model: Model, weights: PyTree, data: Examples, count: int) -> tuple[Any, Need]:
        """The program that measures models (or pairs), compiled and not run, and what it takes.

        metric, model: as in `fitting`, as are the errors.
        weights: arrays or shapes of one model's (params, state), without a model axis.
        data: the examples, arrays or shapes.
        count: how many models (or pairs) are to be measured.
        """
        run, shared = arguments_of(metric, weights, data)
        return self.fitting(metric, model, run, shared, count)

    def least_operations(
        self, metric: Metric, model: Model, weights: PyTree, examples: Sequence[Examples], chunk_size: int
    ) -> list[float]:
        """Floating-point operations of one run on each of these examples, at least (`mdjax.engine.costs`).

        metric, model, weights: as in `planned`.
        examples: of equal shapes, with NumPy scalars as their numbers of examples.
        chunk_size: runs of a call, which share what may be kept between products.
        """
        (models, key), shared = arguments_of(metric, weights, examples[0])
        with limited(self.plan.limits_of(chunk_size)):
            count = OperationCount(functools.partial(metric.run, model), models, shared, key)
        return [count(models, shared if metric.draws_inputs else data, key) for data in examples]


def arguments_of(metric: Metric, weights: PyTree, data: Examples) -> tuple[PyTree, PyTree]:
    """Shapes of one run's arguments, (weights, key), and of what all runs are given, as `Programs.fitting` takes them.

    metric: the metric.
    weights, data: as in `Programs.planned`.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    (first, *_), models = metric.members(["", ""], [0, 1]), shapes_of(weights)
    run = (models,) * len(metric.runs_of(first)[0])
    return (run, key), jax.eval_shape(metric.shared, data, key)


def is_shortage(error: Exception) -> bool:
    """Whether an error says that memory ran out, of a device or of this process."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    is_refused = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return is_refused or isinstance(error, MemoryError)


def _bytes_of(leaf: jax.ShapeDtypeStruct) -> int:
    return leaf.size * (leaf.dtype.itemsize if isinstance(leaf.dtype, np.dtype) else 8)  # random keys are no numbers


def metric_key(seed: int, metric: str, identity: str = "") -> jax.Array:
    """The random key of a metric for one model or pair: from the seed, the metric's name and the identity alone."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(metric.encode()))
    return jax.random.fold_in(key, zlib.crc32(identity.encode())) if identity else key


def shapes_of(arrays: PyTree) -> PyTree:
    """The same pytree with shapes and types in place of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays)


def _placed_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type, and on which devices the array was put, if it was."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def drawn_inputs(metric: Metric, data: Examples, key: jax.Array) -> PyTree:
    """What all runs of a metric that draws its inputs are given."""
    return compiled(metric.shared, ("shared", metric), data, key)(data, key)


def compiled(
    function: Callable[..., PyTree],
    key: Hashable,
    *arguments: PyTree,
    compiler_options: Callable[[PyTree], dict[str, Any] | None] = lambda results: None,
    **options: Any,
) -> Any:
    """The function's program for arguments like these, kept until the process lacks room for its code.

    function: what is compiled.
    key: all that it depends on besides its arguments; equal keys share a program.
    arguments: arrays or their shapes.
    compiler_options: the shapes of its results → what `jax.stages.Lowered.compile` is told.
    options: of `jax.jit`.
    """
    shapes = jax.tree.map(_placed_shape, arguments)
    leaves, structure = jax.tree.flatten(shapes)

    def compile() -> Any:
        lowered = jax.jit(function, **options).lower(*shapes)
        return lowered.compile(compiler_options(lowered.out_info))

    return PROGRAMS.get((key, structure, tuple(leaves)), compile)


def _compiled(
    metric: Metric,
    model: Model,
    batching: str,
    limits: ProductLimits,
    mesh: Mesh | None,
    stacked: PyTree,
    shared: PyTree,
    options: dict[str, Any] | None,
) -> Any:
    platform = platform_of(mesh)
    lowered = functools.partial(_lowered, platform)
    # TF32 and bf16 silently spoil second derivatives.
    precision = metric.tpu_precision if platform == "tpu" else "highest"
    with jax.default_matmul_precision(precision), limited(limits):
        if mesh is None:
            return lowered(jax.jit, _over_runs(metric, model, batching), stacked, shared).compile(options)
        split, whole = PartitionSpec(MODELS), PartitionSpec()
        program = jax.shard_map(
            _over_runs(metric, model, batching),
            mesh=mesh,
            # Devices go through their models' loops independently of each other; the others are left to the compiler,
            # which sees whole batches (`batches.over_data`) and parameters (`split_vectors`), and adds the sums over
            # devices itself.
            axis_names={MODELS},
            in_specs=(split, whole),
            out_specs=split,
            check_vma=False,
        )
        placed = _placed(mesh, stacked), NamedSharding(mesh, whole)
        with jax.set_mesh(mesh):
            jit = functools.partial(jax.jit, in_shardings=placed)
            compiled = lowered(jit, program, stacked, shared).compile(options)
        _check_exchanges(compiled, mesh)
        return compiled


def _check_exchanges(program: Any, mesh: Mesh) -> None:
    """InputError for a program whose groups of host devices would wait for each other.

    Each group runs its loops as often as its own models take. On hosts all devices meet at a collective-permute, also
    where those of one group alone exchange numbers.
    """
    shape = dict(mesh.shape)
    if platform_of(mesh) != "cpu" or shape[MODELS] == 1 or shape.get(SHARDS, 1) == 1:
        return
    if " collective-permute(" in program.as_text():
        sizes = shape.get(DATA, 1), shape[SHARDS]
        raise InputError(
            f"This network cannot be split so for {shape[MODELS]} groups of a CPU's devices at a time, which would "
            f"wait for each other's loops. Give devices as {'x'.join(map(str, (1, *sizes)))}."
        )


def _placed(mesh: Mesh, stacked: PyTree) -> PyTree:
    """On which devices the stacked weights and keys of runs lie."""
    number = dict(mesh.shape).get(SHARDS, 1)

    def split(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(MODELS, *split_spec(leaf.shape[1:], number)))

    whole, (weights, _) = NamedSharding(mesh, PartitionSpec(MODELS)), stacked
    if number == 1:
        return whole
    return tuple((jax.tree.map(split, params), whole) for params, _ in weights), whole


def _lowered(platform: str, jit: Callable[..., Any], function: Callable[..., PyTree], *arguments: PyTree) -> Any:
    """jit(function), lowered for arguments of these shapes, without what XLA compiles wrongly for the platform."""
    traced = jit(function).trace(*arguments)
    if platform != "cpu":
        return traced.lower()
    program = with_safe_convolutions(traced.jaxpr)
    if program is traced.jaxpr:
        return traced.lower()
    structure = jax.tree.structure(traced.out_info)

    def rewritten(*arguments: PyTree) -> PyTree:
        return jax.tree.unflatten(structure, jax.extend.core.jaxpr_as_fun(program)(*jax.tree.leaves(arguments)))

    return jit(rewritten).lower(*arguments)


def _over_runs(metric: Metric, model: Model, batching: str) -> Callable[[PyTree, PyTree], PyTree]:
    def one(run: PyTree, shared: PyTree) -> PyTree:
        weights, key = run
        weights = tuple((over_shards(params), state) for params, state in weights)
        return metric.run(model, weights, shared, key)

    def many(stacked: PyTree, shared: PyTree) -> PyTree:
        if batching == "vmap":
            return jax.vmap(one, (0, None))(stacked, shared)
        if batching == "map":
            return jax.lax.map(lambda run: one(run, shared), stacked)
        single = one(jax.tree.map(lambda leaf: leaf[0], stacked), shared)
        return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[None], single)

    return many
