"""How many checkpoints a second become a zoo, and in how much memory?

    python bench/convert.py [--files 1000] [--out FILE]

Trees as the published zoos lay them out, written by this script: the small CNN of the ModelZoos (10 entries a file) and
the paper's ResNet-18 of width 2 (122 entries). Each is converted by a process of its own, whole and a quarter of it.
Every converted weight is compared with the one that was written. Last line JSON:

rows              case, files, entries (of a file), bytes (of a file), seconds (of the conversion) and per_second,
                  cpu_seconds of it (much less than seconds: other programs took the cores), process_seconds (imports of
                  torch and JAX included), peak_mib, base_mib (after the imports)
memory_growth     peak memory of the whole tree over that of a quarter of it, for each case
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from torch_resnet import random_resnet
from torch_zoo import config, network

from converters import convert
from converters.families import to_state_dict
from mdjax.files import write_file
from mdjax.memory import process_memory
from mdjax.zoo.store import Zoo

SEEDS = 5


def weights(case: str, number: int) -> dict[str, torch.Tensor]:
    """One network of a case, another one for each number."""
    if case == "cnn":
        return network(config(), number).state_dict()
    return random_resnet(2, number).state_dict()


def write_tree(case: str, folder: Path, count: int) -> None:
    """`count` files in the layout of the case's published zoo, each network once."""
    for number in range(count):
        seed, configuration = number % SEEDS, number // SEEDS
        if case == "cnn":
            trial = folder / "tune_zoo" / f"trial_{number:05d}"
            file = trial / "checkpoint_50" / "checkpoints"
            file.parent.mkdir(parents=True)
            fields = config(seed=seed, optim__lr=1e-5 * (configuration + 1))
            (trial / "params.json").write_text(json.dumps(fields))
            (trial / "result.json").write_text(json.dumps({"training_iteration": 50, "config": fields}) + "\n")
        else:
            # As many batch sizes as it takes; the published ones are 13.
            file = folder / f"different_knobs_subset_10/bs_{configuration + 1}/normal/ResNet18_w2/net_exp_{seed}.pkl"
            file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(weights(case, number), file)


def convert_here(folder: Path, out: Path) -> dict:
    """Convert a tree in this process."""
    base = process_memory().most // 2**20
    start, used = time.perf_counter(), time.process_time()
    report = convert(folder, out, show_progress=False)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = process_memory().most // 2**20
    converted = len(report.converted)
    timing = {"seconds": round(seconds, 3), "cpu_seconds": round(used, 3)}
    return {"converted": converted, **timing, "peak_mib": peak, "base_mib": base}


def check(case: str, out: Path, count: int) -> None:
    """Every weight in the zoo is the one that was written."""
    zoo = Zoo(out)
    assert len(zoo) == count, (len(zoo), count)
    for group in zoo.groups:
        params, state = zoo.read_group(group)
        for row in zoo.manifest[zoo.manifest["group"] == group].itertuples():
            if case == "cnn":
                number = int(row.model_id.split("_")[-1].split("/")[0])
            else:
                number = (row.batch_size - 1) * SEEDS + row.seed
            one = [_one(tree, row.position) for tree in (params, state)]
            found = to_state_dict(*one, zoo.architecture(group))
            for name, value in weights(case, number).items():
                if not name.endswith("num_batches_tracked"):
                    assert np.array_equal(found[name], value.numpy()), (row.model_id, name)


def _one(tree, position: int):
    return {key: _one(value, position) if isinstance(value, dict) else value[position] for key, value in tree.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(convert_here(*options.child)))
        return

    rows, growth = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for case in ("cnn", "resnet18-w2"):
            peaks = []
            for count in (options.files // 4, options.files):
                folder, out = Path(temporary) / f"{case}-{count}", Path(temporary) / f"{case}-{count}-zoo"
                write_tree(case, folder, count)
                file = next(path for path in folder.rglob("*") if path.suffix == ".pkl" or path.name == "checkpoints")
                start = time.perf_counter()
                command = [sys.executable, __file__, "--child", str(folder), str(out)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                elapsed = time.perf_counter() - start
                found = json.loads(done.stdout.splitlines()[-1])
                check(case, out, count)
                peaks.append(found["peak_mib"])
                rows.append(
                    {
                        "case": case,
                        "files": count,
                        "entries": len(weights(case, 0)),
                        "bytes": file.stat().st_size,
                        **found,
                        "per_second": round(count / found["seconds"], 1),
                        "process_seconds": round(elapsed, 2),
                    }
                )
                print(rows[-1], flush=True)
            growth[case] = round(peaks[1] / peaks[0], 3)
    result = {"rows": rows, "memory_growth": growth, **environment("torch")}
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
