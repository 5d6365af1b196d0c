"""The figures that README and documentation tell are those recorded in bench/results."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def result(name: str):
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())


def test_the_accuracies_of_calibration_told_are_those_recorded():
    methods = result("verdicts")["methods"]
    means = {name: {key: found["mean"] for key, found in methods[name].items()} for name in methods}
    width, *others = (f"{means['calibrated 20 %'][name]:.0f}" for name in ("width", "optimizer", "data"))
    text = (ROOT / "docs" / "accuracy.md").read_text()
    short = (
        f"right in {width} % of the larger networks about width, in {' and '.join(others)} % about optimizer and data"
    )
    assert short in (ROOT / "README.md").read_text()
    assert (
        f"right in {width} % of the larger networks of twelve zoos; for optimizer and data in {' and '.join(others)} %"
        in text
    )
    guide = (ROOT / "docs" / "diagnosis.md").read_text()
    for told, name in {"calibrated, 20 %": "calibrated 20 %", "calibrated, 5 %": "calibrated 5 %"}.items():
        one = means[name]
        figures = [f"{one[key]:.0f}" for key in ("optimizer", "width", "data")]
        figures += [f"{one[key]:.2f}" for key in ("right", "coverage", "gain best")]
        assert f"| {told} | {' | '.join(figures)} |" in guide


def test_the_speeds_told_are_those_recorded():
    text = (ROOT / "docs" / "accuracy.md").read_text()
    gpu = result("batches_vs_torch")["rows"]
    hessian, curves, scaling = (result(name) for name in ("hessian_vs_peers", "connectivity_vs_torch", "scaling"))
    each = {row["models"]: row["seconds_per_model"] for row in scaling["rows"] if row["examples"] == 256}
    rows = {(row["preset"], row["width"]): row for row in curves["rows"]}
    same, plain = (
        [f"{rows[preset, width]['ratio']:.1f}" for width in (2, 4)] for preset in ("default_same_peak", "reference")
    )
    ours, theirs = (
        [f"{rows['default', width][f'{who}_peak_error']:.1f} %" for width in (2, 4)] for who in ("our", "torch")
    )

    def both(name: str, scale: float = 1) -> str:
        hessians = name in ("seconds", "pyhessian_speedup", "curvlinops_speedup")
        found = [row[name] for row in gpu if name in row and (row["metric"] == "hessian") == hessians]
        return " and ".join(f"{scale * value:.0f}" for value in found)

    for told in (
        f"{hessian['geomean_speedup']:.0f} times faster (geometric mean",
        f"{hessian['geomean_speedup_curvlinops']:.1f} in the mean",
        f"{curves['geomean_speedup_reference']:.2f} times as fast ({' and '.join(plain)}; widths 2 and 4)",
        f"{curves['geomean_speedup']:.1f} times ({' and '.join(same)})",
        f"{curves['geomean_speedup_default']:.1f} times, for a peak error of {' and '.join(ours)} in place of",
        f"in place of {' and '.join(theirs)}",
        f"{each[256]:.2f} s a model ({each[8]:.2f} in a zoo of 8, {each[64]:.2f} of 64)",
        f"at most {max(row['peak_mib'] for row in scaling['rows'][:4]) / 1024:.1f} GiB",
        f"at {100 * scaling['products']['share_of_peak']:.0f} % of the measured matmul peak",
        f"the Hessian {both('seconds', 1000)} ms a model: {both('pyhessian_speedup')} times PyHessian, "
        f"{both('curvlinops_speedup')} times curvlinops; curves by the published procedure {both('reference_speedup')} "
        f"times PyTorch, `default` to its peak {both('default_same_peak_speedup')} times (width 2)",
    ):
        assert told in text
    short = (ROOT / "README.md").read_text()
    for told in (
        f"{hessian['geomean_speedup']:.0f} times faster (geometric mean",
        f"{hessian['geomean_speedup_curvlinops']:.1f} times in the mean",
        f"{curves['geomean_speedup_reference']:.2f} times as fast by the published procedure; "
        f"{curves['geomean_speedup']:.1f} times to the same peak error",
        f"{both('seconds', 1000)} ms a model",
    ):
        assert told in short
