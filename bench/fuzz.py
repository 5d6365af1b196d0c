"""What do damaged and hostile files do to the code that reads them?

    python bench/fuzz.py [--count 2000] [--crafted 200] [--seed 0] [--formats a,b] [--cases 7,12] [--out FILE]

Mutates a small sound file of each format that mdjax reads (`fuzz_formats.FORMATS`) `--count` times, by flipped bits,
truncations, cuts, splices, repeated blocks, noise and replaced numbers, and crafts `--crafted` zoos, tables, trees and
other files with wrong types, ids, shapes, links and nesting (`fuzz_crafted.KINDS`). Each is read, measured or diagnosed
in a child process with limits of memory and time. Counted for each format:

same        read as the sound file is: the fault was where nothing is read
told        refused in one sentence, or named by a status in the row or group that it is in
unseen      read as something else, which nobody could know: formats without a checksum, where a changed byte of the
            numbers, or digit of the text, makes another sound file
silent      read as something else without a word although that could be known: by a checksum (of zip files, of a
            zoo's weights, of a Parquet file), by a second copy of the fact, or, of crafted files, because the crafted
            value is one that cannot be (a width of -1, an id that occurs twice)
traceback   any exception that is none of the project's own
crash       the process died; hang: it took more than a minute; memory: more than 1 GiB for files of a few kilobytes

The last line is JSON; `faults` holds up to five examples of each kind. `--count` and `--crafted` decide how much is
done: the same seed gives the same files, so that `--formats NAME --cases NUMBERS` repeats what was found. Exit status 1
where there is a fault.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from fuzz_children import FAULTS, OUTCOMES, Result, fingerprint, run
from fuzz_crafted import KINDS, Kind
from fuzz_formats import FORMATS, Format
from fuzz_mutations import mutated

_EXAMPLES = 5


def main() -> None:
    """Run it and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="mutations of each format (default: %(default)s)")
    parser.add_argument("--crafted", type=int, default=200, help="crafted files of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", help="only these, of formats and kinds")
    parser.add_argument("--cases", help="only these of their numbers, such as 663,1327, once more")
    parser.add_argument("--out", type=Path, help="write the last line here, too")
    options = parser.parse_args()
    chosen = options.formats.split(",") if options.formats else [*FORMATS, *KINDS]
    again = [int(case) for case in options.cases.split(",")] if options.cases else None
    counts, faults = {}, []
    with tempfile.TemporaryDirectory(prefix="mdjax-fuzz-") as scratch:
        for name in chosen:
            kept = Path(scratch) / "sound"
            if name in FORMATS:
                results = _mutations(FORMATS[name], again or range(options.count), options.seed, kept)
            else:
                results = _crafted(KINDS[name], again or range(options.crafted), options.seed, kept)
            shutil.rmtree(kept)
            found = Counter(result.outcome for result in results)
            counts[name] = {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}
            for fault in FAULTS:
                examples = [result for result in results if result.outcome == fault][:_EXAMPLES]
                faults += [{"format": name, **result._asdict()} for result in examples]
            print(
                f"{name:14} {counts[name]}",
                *(fault for fault in faults if fault["format"] == name),
                sep="\n  ",
                flush=True,
            )
    total = {fault: sum(found.get(fault, 0) for found in counts.values()) for fault in FAULTS}
    # Asked last, for it starts JAX, whose threads no child could use.
    settings = {name: getattr(options, name) for name in ("count", "crafted", "seed", "cases")}
    line = json.dumps({**settings, "total": total, "counts": counts, "faults": faults, "environment": environment()})
    if options.out:
        options.out.write_text(line + "\n")
    print(line)
    sys.exit(1 if any(total.values()) else 0)


def _mutations(format: Format, cases: Sequence[int], seed: int, kept: Path) -> list[Result]:
    sound = _prepared(format.make, format.read, kept)
    files = [path.relative_to(kept) for path in format.files(kept)]

    def work(case: int) -> tuple[str, str]:
        random = np.random.RandomState([seed, case])
        with tempfile.TemporaryDirectory(prefix="mdjax-fuzz-", dir=kept.parent) as scratch:
            folder = shutil.copytree(kept, Path(scratch) / "case")
            path = folder / files[random.randint(len(files))]
            path.write_bytes(mutated(path.read_bytes(), random))
            same = fingerprint(format.read(folder)) == sound
        return "same" if same else "silent" if format.checked else "unseen", str(path.relative_to(folder))

    return run(cases, work)


def _crafted(kind: Kind, cases: Sequence[int], seed: int, kept: Path) -> list[Result]:
    sound = _prepared(kind.make, kind.read, kept)

    def work(case: int) -> tuple[str, str]:
        with tempfile.TemporaryDirectory(prefix="mdjax-fuzz-", dir=kept.parent) as scratch:
            folder = shutil.copytree(kept, Path(scratch) / "case", symlinks=True)
            told, what = kind.craft(folder, case, np.random.RandomState([seed, case]))
            try:
                found = fingerprint(kind.read(folder))
            except Exception as error:
                error.args = (f"{error} <- {what}",)
                raise
        return "same" if found == sound else "silent" if told else "unseen", what

    return run(cases, work)


def _prepared(make: Callable[[Path], Any], read: Callable[[Path], Any], kept: Path) -> str:
    """The sound files in `kept`, made by a child, and the fingerprint of what is read of them."""
    kept.mkdir(parents=True)

    def work(case: int) -> tuple[str, str]:
        make(kept)
        return "same", fingerprint(read(kept))

    (result,) = run([0], work, seconds=600)  # programs are compiled
    if result.outcome != "same":
        raise SystemExit(f"The sound files cannot be read: {result.outcome} {result.detail}")
    return result.detail


if __name__ == "__main__":
    main()
