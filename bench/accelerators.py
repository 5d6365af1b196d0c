"""What do the metrics' programs cost to compile for accelerators that are not here, and how near are they to the least?

    python bench/accelerators.py --targets tpu:v5e-1,cuda:h100 [--metrics ...] [--architectures ...] [--out FILE]

Each program is compiled in a process of its own, which is ended after --limit seconds of processor time. Where the
compilers come from stands in docs/targets.md; those of a target that is not installed are left out, and rows of other
targets, metrics and architectures that --out already holds are kept, so that two environments can fill one table. Last
line JSON:

rows   target, devices, metric, architecture, chunk (models on each device, as many of those asked for as fit);
       compile_s, processor seconds of tracing, lowering and compiling (of a machine that is shared up to twice as
       many: note its load); load before it; instructions and code_mib of the program; temp_mib that a call needs on
       each device; flops_ratio and bytes_ratio, the compiler's own account over the least there is: the operations of
       products and convolutions of that many single models, and the bytes of their operands and results, every loop's
       body taken once on both sides (of a GPU bytes alone, since its libraries' calls tell no operations);
       collectives by kind; megacycles where the compiler estimates them; or failure in place of these
"""

import argparse
import collections
import dataclasses
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

ARCHITECTURES = ("mlp:32", "cnn:8", "resnet18:2", "resnet18:8", "resnet18:32")
SIDE, EXAMPLES, CLASSES = 32, 1024, 10
_KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def one(case: dict) -> dict:
    """Compile one program in this process."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import jax.numpy as jnp

    from mdjax.engine import Programs, default_plan, target_of
    from mdjax.errors import InputError
    from mdjax.metrics import METRICS, Examples
    from mdjax.models import Architecture

    try:
        target = target_of(case["target"], case["devices"])
    except InputError as error:
        return {"failure": str(error)}
    settings = {"chunk_size": case["chunk"]}
    settings |= {name: case[name] for name in ("effort", "convolution") if case[name]}
    plan = dataclasses.replace(default_plan(target=target), **settings)
    family, width = case["architecture"].split(":")
    architecture = Architecture(family, int(width), (SIDE, SIDE, 3), CLASSES)
    model, metric = architecture.model(plan.convolution), METRICS[case["metric"]]()

    def shapes(*shape: int, kind: type = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, kind)

    images, labels = shapes(EXAMPLES, SIDE, SIDE, 3), shapes(EXAMPLES, kind=jnp.int32)
    data = Examples(images, labels, shapes(kind=jnp.int32), images, labels)
    start = time.process_time()
    try:
        program, need = Programs(plan).planned(
            metric, model, architecture.abstract, data, case["chunk"] * plan.num_groups
        )
    except jax.errors.JaxRuntimeError as error:
        return {"failure": str(error).splitlines()[0], "compile_s": round(time.process_time() - start, 1)}
    seconds = time.process_time() - start
    text, account = program.as_text(), program.memory_analysis()
    # Patches are no part of what is needed; a loop over layers has to be the same on both sides.
    ideal = architecture.model("looped" if plan.convolution == "looped" else "lax")
    counted, least = _account(program), _least(plan, metric, ideal, architecture, data, need.chunk_size)
    parts = need.chunk_size / target.mesh.shape.get("data", 1)
    found = {
        "chunk": need.chunk_size,
        "compile_s": round(seconds, 1),
        "instructions": text.count(" = "),
        "code_mib": round(account.generated_code_size_in_bytes / 2**20, 1),
        "temp_mib": round(account.temp_size_in_bytes / 2**20),
        "memory_mib": round(need.bytes / 2**20),
        "fits": need.bytes <= target.chip.memory,
        "collectives": {kind: n for kind in _KINDS if (n := len(re.findall(rf" {kind}(?:-start)?\(", text)))},
    }
    for name, counter in (("flops", "flops"), ("bytes", "bytes accessed")):
        if counter in counted:
            found[f"{name}_ratio"] = round(counted[counter] / (parts * least[name]), 2)
    cycles = [int(number) for number in re.findall(r'"estimated_cycles":"(\d+)"', text)]
    return found | ({"megacycles": round(sum(cycles) / 1e6, 1)} if cycles else {})


def _account(program) -> dict[str, float]:
    """The compiler's account; of a GPU that is not here its bytes alone, to which those of library calls are added."""
    counted = program.cost_analysis()
    if counted:
        return counted
    from jax._src import xla_bridge
    from jax._src.lib import xla_client

    (module,) = program.runtime_executable().hlo_modules()
    counted = xla_client._xla.hlo_module_cost_analysis(xla_bridge.get_backend("cpu"), module)
    sizes, total = {}, counted["bytes accessed"]
    for name, result, kind, operands in _INSTRUCTION.findall(program.as_text()):
        arrays = _ARRAY.findall(result)
        sizes[name] = sum(4 * math.prod(map(int, filter(None, shape.split(",")))) for shape in arrays)
        if kind == "custom-call":
            total += sizes[name] + sum(sizes.get(one, 0) for one in re.findall(r"%([\w.\-]+)", operands))
    return {"bytes accessed": total}


_INSTRUCTION = re.compile(r"^ *(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)", re.MULTILINE)
_ARRAY = re.compile(r"[fs]32\[([\d,]*)\]")
"""Numbers of four bytes: the others are libraries' room for work."""


def _least(plan, metric, model, architecture, data, chunk: int) -> collections.Counter:
    """Operations and bytes of the products and convolutions of one model."""
    import jax

    from mdjax.engine.programs import arguments_of
    from mdjax.landscape.limits import limited

    (weights, key), shared = arguments_of(metric, architecture.abstract, data)
    with limited(plan.limits_of(chunk)):
        program = jax.make_jaxpr(lambda w, s, k: metric.run(model, w, s, k))(weights, shared, key)
    return _counted(program.jaxpr)


def _counted(jaxpr) -> collections.Counter:
    """Those of a program, all of its branches and each loop's body once."""
    from jax.extend.core import ClosedJaxpr, Jaxpr

    from mdjax.engine.costs import _convolution, _used

    total, used = collections.Counter(), _used(jaxpr)
    for operation in jaxpr.eqns:
        if not any(variable in used for variable in operation.outvars):
            continue
        shapes = [atom.aval for atom in (*operation.invars, *operation.outvars)]
        if operation.primitive.name in ("dot_general", "conv_general_dilated"):
            if operation.primitive.name == "dot_general":
                (contracted, _), _ = operation.params["dimension_numbers"]
                terms = math.prod(shapes[0].shape[axis] for axis in contracted)
                total["flops"] += 2 * terms * math.prod(shapes[-1].shape)
            else:
                total["flops"] += _convolution(operation)
            total["bytes"] += sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in shapes)
        for value in operation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    total += _counted(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
    return total


def in_a_process(case: dict, limit: int) -> dict:
    """The row of a case, from a process that may take so many seconds of processor time."""
    load = round(os.getloadavg()[0], 1)
    command = [sys.executable, __file__, "--one", json.dumps(case), "--limit", str(limit)]
    settings = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()
        ended = f"ended after {limit} s of processor time" if done.returncode < 0 else (said or ["no result"])[-1][:200]
        found = {"failure": ended}
    return {name: value for name, value in case.items() if value is not None} | found | {"load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="tpu:v5e-1,cuda:h100")
    parser.add_argument("--metrics", default="losses,hessian,mode_connectivity,density,surface,similarity,cka")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES), help="family:width")
    parser.add_argument("--chunk", type=int, default=8, help="models on each device")
    parser.add_argument("--devices", help="of the mesh, models or models x data, like 2x2")
    parser.add_argument("--effort", help="of a TPU's compiler (default: the plan's)")
    parser.add_argument("--convolution", help="form of the convolutions (default: the plan's)")
    parser.add_argument("--limit", type=int, default=600, help="processor seconds a program may take")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        resource.setrlimit(resource.RLIMIT_CPU, (options.limit, options.limit + 5))
        print(json.dumps(one(options.one)))
        return
    from environment import environment

    from mdjax.files import write_file

    result = {"rows": []}
    if options.out and options.out.is_file():
        result = json.loads(options.out.read_text())
    for target in options.targets.split(","):
        for architecture in options.architectures.split(","):
            for metric in options.metrics.split(","):
                case = {"target": target, "devices": options.devices, "metric": metric, "architecture": architecture}
                case |= {"chunk": options.chunk, "effort": options.effort, "convolution": options.convolution}
                row = in_a_process(case, options.limit)
                print(json.dumps(row), flush=True)
                if "not installed" in row.get("failure", ""):
                    break
                same = ("target", "devices", "metric", "architecture", "effort", "convolution")
                key = [row.get(name) for name in same]
                result["rows"] = [r for r in result["rows"] if [r.get(name) for name in same] != key] + [row]
                if options.out:
                    write_file(options.out, json.dumps(result | environment("libtpu"), indent=1) + "\n")
    print(json.dumps(result | environment("libtpu")))


if __name__ == "__main__":
    main()
