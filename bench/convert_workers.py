"""How much faster do several processes read checkpoints than one?

    python bench/convert_workers.py [--files 200] [--width 2] [--out FILE]

The paper's ResNet-18 (122 entries a file), converted in this process, by one worker and by two, `--rounds` times in
turn. Every zoo is compared with that of this process, model for model. Last line JSON:

rows     workers, seconds (of the conversion, the start of the workers included), per_second of all files, and
         running_per_second: from a tenth of the files on, when all workers are at work; of each the median round
         own_cpu_ms: processor time of this process for a file, which tells what no number of workers takes off it,
         also where other programs take the cores
ratios   running_per_second of two workers over that of one worker, and over that of this process
bytes    of a file
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from convert import SEEDS, random_resnet, torch
from environment import environment

from converters import conversion
from mdjax.files import write_file
from mdjax.zoo.store import Zoo


def write_files(folder: Path, count: int, width: int) -> int:
    """Bytes of the last of them."""
    size = 0
    for number in range(count):
        place = f"different_knobs_subset_10/bs_{number // SEEDS + 1}/normal/ResNet18_w{width}"
        file = folder / place / f"net_exp_{number % SEEDS}.pkl"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(random_resnet(width, number).state_dict(), file)
        size = file.stat().st_size
    return size


def timed(folder: Path, out: Path, workers: int, count: int) -> tuple[float, float, float]:
    """Seconds of a conversion; from a tenth of its files on, files a second and milliseconds of this process a file."""
    done: list[tuple[float, float]] = []
    add = conversion._Work.add

    def noted(work, cluster):
        add(work, cluster)
        done.append((time.perf_counter(), time.process_time()))

    conversion._Work.add = noted
    start = time.perf_counter()
    try:
        report = conversion.convert(folder, out, workers=workers, show_progress=False)
    finally:
        conversion._Work.add = add
    seconds = time.perf_counter() - start
    assert len(report.converted) == count
    first = count // 10
    files = count - 1 - first
    (start, used), (end, used_then) = done[first], done[-1]
    return seconds, files / (end - start), 1000 * (used_then - used) / files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[int, list[tuple[float, float, float]]] = {0: [], 1: [], 2: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "src"
        size = write_files(folder, options.files, options.width)
        for number in range(options.rounds):
            for workers in found:
                out = Path(temporary) / f"zoo-{number}-{workers}"
                found[workers].append(timed(folder, out, workers, options.files))
                expected = Zoo(Path(temporary) / "zoo-0-0").manifest
                keys = ["model_id", "weights_hash", "batch_size"]
                same = Zoo(out).manifest.sort_values("model_id")[keys].to_numpy().tolist()
                assert same == expected.sort_values("model_id")[keys].to_numpy().tolist()
                print(workers, found[workers][-1], flush=True)
    rows, running = [], {}
    for workers, times in found.items():
        seconds, running[workers], own = map(statistics.median, zip(*times, strict=True))
        rates = {"per_second": round(options.files / seconds, 1), "running_per_second": round(running[workers], 1)}
        rows.append({"workers": workers, "seconds": round(seconds, 2), **rates, "own_cpu_ms": round(own, 2)})
    ratios = {"one_worker": round(running[2] / running[1], 2), "this_process": round(running[2] / running[0], 2)}
    shape = {"files": options.files, "width": options.width, "bytes": size, "cores": os.cpu_count()}
    result = {"rows": rows, "ratios": ratios, **shape, **environment("torch")}
    if options.out:
        write_file(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
