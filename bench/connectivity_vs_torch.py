"""How long does a curve between two networks take, against a plain PyTorch version of the published procedure?

    python bench/connectivity_vs_torch.py [--widths 2,4] [--pairs 8] [--scale 1] [--epochs 8] [--out FILE]

ResNet-18s trained for `--epochs` on the digits at 32 × 32 are joined in pairs, each by three fits in turn: PyTorch
(random start, momentum SGD, five points), the `reference` preset (the same procedure) and the `default` settings.
`--scale` shortens the published 50 epochs, for PyTorch and `reference` alike; `default` is as it ships. A fourth row,
`default_same_peak`, is the default with the fewest steps of LADDER whose mean peak is at most PyTorch's, at PyTorch's
five points; where none gets there, the last. Same weights, same data, all cores for both. PyTorch holds the data in
memory, without a loader, which is faster than the original. Seconds are those of training and evaluating a curve;
compiling is reported apart. Last line JSON:

rows                       width, preset, pairs, our_seconds and torch_seconds per pair, ratio (torch / ours),
                           our_peak_error and torch_peak_error (mean over pairs of the highest training error between
                           the ends, percent; the default's over more points than PyTorch's), peak_reached (pairs whose
                           peak is at most PyTorch's), end_error (mean at the ends), compile_seconds, our_steps,
                           torch_steps
geomean_speedup_reference  geometric mean over widths of the ratio, `reference`
geomean_speedup            the same of `default_same_peak`: time to the same peak
geomean_speedup_default    the same of `default` as it ships, whose peak is another
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from environment import environment
from torch.func import functional_call

from mdjax.engine import Programs, Stack, measure
from mdjax.files import write_file
from mdjax.landscape.curves import CurveSettings
from mdjax.metrics import Examples
from mdjax.metrics.connectivity import ModeConnectivity, PublishedModeConnectivity
from mdjax.models import Architecture
from mdjax.zoo.data import Dataset, load
from mdjax.zoo.grids import Setting
from mdjax.zoo.training import architecture_of, train_stack

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from torch_resnet import TorchResNet18

BATCH_SIZE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.01, 0.9, 5e-4
LADDER = (10, 15, 20, 30, 45, 60, 80, 100, 125, 150)
POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_network(width: int, params: dict, state: dict) -> TorchResNet18:
    """The same network in PyTorch."""
    entries = {}
    for path, leaf in jax.tree.leaves_with_path((params, state)):
        *layers, name = (part.key for part in path[1:])
        module = ".".join(layers).replace("shortcut_conv", "shortcut.0").replace("shortcut_bn", "shortcut.1")
        array = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
        entries[f"{module.replace('_', '.')}.{_TORCH_NAMES[name]}"] = torch.tensor(np.ascontiguousarray(array))
    network = TorchResNet18(width)
    missing, unexpected = network.load_state_dict(entries, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return network


def torch_curve(
    first: TorchResNet18, second: TorchResNet18, x: torch.Tensor, y: torch.Tensor, *, num_epochs: int, seed: int
) -> list[float]:
    """Training error in percent at POINTS of a quadratic Bézier curve, fitted as published."""
    generator = torch.Generator().manual_seed(seed)
    start, end = (dict(network.named_parameters()) for network in (first, second))
    network = TorchResNet18(first.conv1.out_channels)
    bend = _random_parameters(network, generator)
    if x.device.type != "cpu":
        network = network.to(x.device)
        bend = {name: value.detach().to(x.device).requires_grad_() for name, value in bend.items()}
    optimizer = torch.optim.SGD(bend.values(), LEARNING_RATE, MOMENTUM)

    def point(t: float) -> dict[str, torch.Tensor]:
        return {n: (1 - t) ** 2 * start[n].detach() + 2 * t * (1 - t) * bend[n] + t**2 * end[n].detach() for n in bend}

    network.train()
    for epoch in range(1, num_epochs + 1):
        alpha = epoch / num_epochs
        factor = 1.0 if alpha <= 0.5 else 1 - (alpha - 0.5) / 0.4 * 0.99 if alpha <= 0.9 else 0.01
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
        for index in torch.randperm(len(x), generator=generator).split(BATCH_SIZE):
            params = point(float(torch.rand((), generator=generator)))
            index = index.to(x.device)
            loss = torch.nn.functional.cross_entropy(functional_call(network, params, (x[index],)), y[index])
            loss = loss + WEIGHT_DECAY / 2 * sum(value.pow(2).sum() for value in params.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return [_error(network, point(t), x, y) for t in POINTS]


def _random_parameters(network: torch.nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights and biases from U(±1/√fan_in), BatchNorm's scales from U(0, 1), its shifts 0."""
    found = {}
    for prefix, module in network.named_modules():
        for name, value in module.named_parameters(recurse=False):
            drawn = torch.rand(value.shape, generator=generator)
            if isinstance(module, torch.nn.BatchNorm2d):
                drawn = drawn * (name == "weight")
            else:
                drawn = (2 * drawn - 1) / module.weight[0].numel() ** 0.5
            found[f"{prefix}.{name}"] = drawn.requires_grad_()
    return found


def _error(network: torch.nn.Module, params: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    """Training error in percent, BatchNorm's statistics taken anew from the whole set."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    network.train()
    seen = 0
    for batch in x.split(BATCH_SIZE):
        seen += len(batch)
        for norm in norms:
            norm.momentum = len(batch) / seen
        functional_call(network, params, (batch,))
    network.eval()
    wrong = sum(
        int((functional_call(network, params, (inputs,)).argmax(1) != labels).sum())
        for inputs, labels in zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE))
    )
    return 100 * wrong / len(x)


def trained(width: int, num_models: int, epochs: int, dataset: Dataset) -> tuple[Architecture, dict, dict]:
    """(architecture, stacked parameters, stacked statistics)."""
    settings = [
        Setting(
            family="resnet18",
            width=width,
            depth=0,
            batch_size=64,
            data_share=1.0,
            label_noise=0.0,
            learning_rate=0.05,
            momentum=0.9,
            weight_decay=5e-4,
            epochs=epochs,
            seed=seed,
        )
        for seed in range(num_models)
    ]
    return architecture_of(settings[0], dataset), *train_stack(settings, dataset)


def compare(width: int, num_pairs: int, factor: int, epochs: int, dataset: Dataset) -> list[dict]:
    """The rows of one width; `factor` times 10 are the epochs of the published procedure."""
    architecture, params, state = trained(width, 2 * num_pairs, epochs, dataset)
    programs = Programs()
    model = architecture.model(programs.plan.convolution)
    stack = Stack(model, params, state, [f"model{index}" for index in range(2 * num_pairs)])
    data = Examples(*map(jnp.asarray, (dataset.x_train, dataset.y_train, len(dataset.x_train))), None, None)  # pyright: ignore[reportArgumentType]
    presets = {
        "reference": PublishedModeConnectivity(CurveSettings.published(epoch_factor=factor)),
        "default": ModeConnectivity(),
    }
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (params, state))
    compile_seconds: dict[str, float] = {}
    seconds: dict[str, list[float]] = {"torch": [], "reference": [], "default": []}
    curves: dict[str, list[list[float]]] = {name: [] for name in seconds}

    def prepare(preset: str) -> None:
        begin = time.perf_counter()
        programs.need(presets[preset], model, shapes, data, 1)
        compile_seconds[preset] = time.perf_counter() - begin
        seconds[preset], curves[preset] = [], []

    def fit(preset: str, pair: int) -> None:
        members = [(2 * pair, 2 * pair + 1)]
        row = measure(presets[preset], stack, data, members, programs=programs, timed=True)[0]
        seconds[preset].append(row["mode_connectivity_seconds"])
        curves[preset].append(row["curve_error"])

    for preset in presets:
        prepare(preset)
    x = torch.tensor(np.ascontiguousarray(dataset.x_train.transpose(0, 3, 1, 2)))
    y = torch.tensor(dataset.y_train).long()
    members = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), (params, state)) for i in range(2 * num_pairs)]
    networks = [torch_network(width, *member) for member in members]
    logits = np.asarray(model.apply(*members[0], dataset.x_train[:64]))
    with torch.no_grad():
        np.testing.assert_allclose(networks[0](x[:64]).numpy(), logits, rtol=1e-3, atol=1e-3)
    torch_curve(*networks[:2], x[:256], y[:256], num_epochs=1, seed=0)  # PyTorch's own first-call costs
    for pair in range(num_pairs):
        begin = time.perf_counter()
        curves["torch"].append(torch_curve(*networks[2 * pair : 2 * pair + 2], x, y, num_epochs=10 * factor, seed=pair))
        seconds["torch"].append(time.perf_counter() - begin)
        for preset in presets:
            fit(preset, pair)
        latest = ", ".join(
            f"{name} {seconds[name][-1]:.1f} s, peak {peaks(curves[name])[-1]:.2f} %" for name in seconds
        )
        print(f"width {width}, pair {pair}: {latest}", flush=True)
    same = "default_same_peak"
    for num_steps in LADDER:
        presets[same] = ModeConnectivity(CurveSettings(num_steps=num_steps), num_points=len(POINTS))
        prepare(same)
        for pair in range(num_pairs):
            fit(same, pair)
        peak = np.mean(peaks(curves[same]))
        print(f"width {width}, {num_steps} steps: {np.mean(seconds[same]):.1f} s, peak {peak:.2f} %", flush=True)
        if peak <= np.mean(peaks(curves["torch"])):
            break
    published_steps = 10 * factor * -(-len(x) // BATCH_SIZE)
    return [
        {
            "width": width,
            "preset": preset,
            "pairs": num_pairs,
            "our_seconds": float(np.mean(seconds[preset])),
            "torch_seconds": float(np.mean(seconds["torch"])),
            "ratio": float(np.mean(seconds["torch"]) / np.mean(seconds[preset])),
            "our_peak_error": float(np.mean(peaks(curves[preset]))),
            "torch_peak_error": float(np.mean(peaks(curves["torch"]))),
            "peak_reached": int(np.sum(peaks(curves[preset]) <= peaks(curves["torch"]))),
            "end_error": float(np.mean([[curve[0], curve[-1]] for curve in curves[preset]])),
            "compile_seconds": compile_seconds[preset],
            "our_steps": published_steps if preset == "reference" else metric.settings.num_steps,
            "torch_steps": published_steps,
        }
        for preset, metric in presets.items()
    ]


def peaks(curves: list[list[float]]) -> np.ndarray:
    """Each curve's highest error between its ends."""
    return np.array([max(curve[1:-1]) for curve in curves])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="2,4")
    parser.add_argument("--pairs", type=int, default=8, help="fits a width")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the published 50 epochs, in fifths")
    parser.add_argument("--epochs", type=int, default=8, help="of training the networks")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    arguments = parser.parse_args()
    factor = max(1, round(5 * arguments.scale))
    record = environment("numpy", "torch", "optax")
    torch.set_num_threads(record["cores"])
    dataset = load("digits32")
    rows = []
    for width in map(int, arguments.widths.split(",")):
        rows += compare(width, arguments.pairs, factor, arguments.epochs, dataset)
    speedup = {
        preset: float(np.exp(np.mean([np.log(row["ratio"]) for row in rows if row["preset"] == preset])))
        for preset in ("reference", "default", "default_same_peak")
    }
    record |= {
        "rows": rows,
        "geomean_speedup_reference": speedup["reference"],
        "geomean_speedup": speedup["default_same_peak"],
        "geomean_speedup_default": speedup["default"],
        "published_epochs": 50,
        "epochs": 10 * factor,
        "network_epochs": arguments.epochs,
        "examples": len(dataset.x_train),
    }
    if arguments.out is not None:
        write_file(arguments.out, json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
