"""How much memory does it take to measure on a sample of data that are larger than memory?

    python bench/large_source.py [--gigabytes 10] [--examples 8192] [--kinds npy,npz,indexed,stream] [--out FILE]

Two random MLPs (98,666 parameters), their losses and Hessian on a sample of 32×32×3 floats, each kind of source read
by a process of its own: a folder of .npy, an .npz, a data set that is looked up by index, one that is gone through.
Last line JSON:

rows    kind; seconds of all; sample_mib, of the inputs drawn; peak_mib, of the process; allowed_mib: 1.5 of the sample
        and 500; base_mib, the peak of the same process on 64 examples
most    the largest peak over what is allowed
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
from environment import environment

import mdjax
from mdjax.files import write_file
from mdjax.memory import process_memory
from mdjax.models import Architecture

SHAPE = (32, 32, 3)
ROW = 4 * int(np.prod(SHAPE))
TESTS = 1024
BLOCK = 2048


def block(number: int) -> np.ndarray:
    """The inputs of that block of examples."""
    return np.random.default_rng(number).standard_normal((BLOCK, *SHAPE), np.float32)


class Indexed:
    """Examples that are made when they are asked for."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return np.random.default_rng(number).standard_normal(SHAPE, np.float32), number % 10


def stream(count: int):
    """The same, one after the other, and over again: drawing numbers would be all that is timed."""
    inputs = block(0)
    for number in range(count):
        yield inputs[number % BLOCK], number % 10


def write_npy(folder: Path, count: int) -> None:
    for half, number in (("train", count), ("test", TESTS)):
        np.save(folder / f"y_{half}.npy", np.arange(number) % 10)
        inputs = np.lib.format.open_memmap(folder / f"x_{half}.npy", "w+", np.float32, (number, *SHAPE))
        first = block(0)
        for start in range(0, number, BLOCK):
            part = first[: number - start]
            part[0, 0, 0, 0] = start
            inputs[start : start + BLOCK] = part


def write_npz(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.glob("*.npy")):
            archive.write(file, file.name)


def here(kind: str, source: str, count: int, examples: int) -> dict:
    """Measure in this process."""
    data = {"indexed": lambda: (Indexed(count), Indexed(TESTS)), "stream": lambda: (stream(count), stream(TESTS))}
    given = data[kind]() if kind in data else source
    architecture = Architecture("mlp", width=32, num_classes=10, input_shape=SHAPE)
    models = [jax.tree.map(np.asarray, architecture.init(jax.random.key(seed))) for seed in range(2)]
    start = time.perf_counter()
    table = mdjax.measure(
        models,
        model=architecture.model(),
        data=given,
        metrics="losses,hessian",
        num_examples=examples,
        show_progress=False,
    )
    assert (table.models["status"] == "ok").all(), table.models["status"].tolist()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": process_memory().most / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--examples", type=int, default=8192)
    parser.add_argument("--kinds", default="npy,npz,indexed,stream")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, source, count, examples = options.child
        print(json.dumps(here(kind, source, int(count), int(examples))))
        return
    count = int(options.gigabytes * 1e9 / ROW)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "arrays"
        folder.mkdir()
        kinds = options.kinds.split(",")
        if {"npy", "npz"} & set(kinds):
            write_npy(folder, count)
        if "npz" in kinds:
            write_npz(folder, folder.parent / "own.npz")
        for kind in kinds:
            source = folder.parent / "own.npz" if kind == "npz" else folder

            def child(examples: int, kind: str = kind, source: Path = source) -> dict:
                told = [kind, f"nhwc:{source}", str(count), str(examples)]
                command = [sys.executable, __file__, "--child", *told]
                return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])

            base, found = child(64), child(options.examples)
            sample = (options.examples + min(TESTS, options.examples)) * ROW / 2**20
            allowed = 1.5 * sample + 500 * 1e6 / 2**20
            rows.append(
                {"kind": kind, **found, "sample_mib": sample, "allowed_mib": allowed, "base_mib": base["peak_mib"]}
            )
            print(", ".join(f"{name} {value:.0f}" if name != "kind" else value for name, value in rows[-1].items()))
    result = {
        "environment": environment(),
        "gigabytes": options.gigabytes,
        "examples": options.examples,
        "rows": rows,
        "most": max(row["peak_mib"] / row["allowed_mib"] for row in rows),
    }
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
