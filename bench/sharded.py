"""How much of a device's memory does a network take whose parameters are split over 1, 2, 4, 8 devices?

    python bench/sharded.py [--width 512] [--layers 2] [--tokens 8192] [--length 64] [--metric hessian] [--out FILE]

The decoder of bench/language_model.py. The metric's program is compiled for fake devices of a CPU and not run: bytes
are those of one device by the compiler's account (`memory_analysis`). Last line JSON: parameters, basis_mib (a Krylov
basis on one device), and rows with shards, total_mib, temp_mib, argument_mib, collectives in the program's text,
compile_seconds.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from environment import environment
from language_model import decoder, initial

from mdjax.engine import Programs, default_plan, device_mesh
from mdjax.engine.collectives import num_collectives
from mdjax.files import write_file
from mdjax.landscape.curves import CurveSettings
from mdjax.metrics import Density, Examples, Hessian, Losses, Metric, ModeConnectivity
from mdjax.models import FunctionModel
from mdjax.tasks import TASKS

STEPS, SAMPLES = 24, 16

METRICS: dict[str, Metric] = {
    "hessian": Hessian(num_samples=SAMPLES, batch_size=SAMPLES, max_steps=STEPS, min_probes=2, max_probes=8),
    "density": Density(num_samples=SAMPLES, batch_size=SAMPLES, num_runs=2, num_steps=STEPS // 2),
    "losses": Losses(),
    "mode_connectivity": ModeConnectivity(CurveSettings(num_steps=10, batch_size=SAMPLES), num_points=3),
}


def apply(params, state, tokens):
    return decoder(params, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 512), ("layers", 2), ("tokens", 8192), ("length", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--shards", default="1,2,4,8", help="over so many devices (default: %(default)s)")
    parser.add_argument("--metric", default="hessian", choices=METRICS)
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    wanted = [int(number) for number in options.shards.split(",")]
    jax.config.update("jax_num_cpu_devices", max(wanted))
    params = initial(options.width, options.layers, options.tokens, options.length)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    tokens = jax.ShapeDtypeStruct((SAMPLES, options.length), jnp.int32)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    data = Examples(tokens, tokens, number, tokens, tokens, TASKS["next-token"])
    rows = []
    for shards in wanted:
        programs, start = Programs(default_plan(device_mesh(f"1x1x{shards}"))), time.perf_counter()
        program, _ = programs.planned(METRICS[options.metric], FunctionModel(apply), (params, {}), data, 1)
        account = program.memory_analysis()
        parts = {
            "temp_mib": account.temp_size_in_bytes,
            "argument_mib": account.argument_size_in_bytes,
            "output_mib": account.output_size_in_bytes,
        }
        row = {"shards": shards, "total_mib": round(sum(parts.values()) / 2**20, 1)}
        row |= {name: round(size / 2**20, 1) for name, size in parts.items()}
        row |= {"collectives": num_collectives(program.as_text())}
        row |= {"compile_seconds": round(time.perf_counter() - start, 1)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {
        "parameters": count,
        "basis_mib": round(STEPS * 4 * count / 2**20, 1),
        "rows": rows,
        "settings": {name: str(value) for name, value in vars(options).items()},
        **environment(),
    }
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
