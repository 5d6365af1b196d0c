"""A GPT-2-like, a BERT-like and a ViT-like checkpoint: from the file to the page, losses and curvature as PyTorch's."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformer_modules
from helpers import digits

import mdjax
from mdjax.cli import main
from mdjax.table import read_table

CODE = Path(transformer_modules.__file__)
WORDS = np.random.default_rng(0).integers(0, 23, (120, 11))


def as_arrays(x, y):
    return {"x_train": x[:80], "y_train": y[:80], "x_test": x[80:120], "y_test": y[80:120]}


DATA = {
    "GPT": as_arrays(WORDS[:, :-1], np.where(WORDS[:, 1:] == 0, -100, WORDS[:, 1:])) | {"task": "next-token"},
    "BERT": as_arrays(WORDS[:, :-1], WORDS[:, 0] % 3),
    "ViT": as_arrays(digits().x_train, digits().y_train),
}


def module(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(transformer_modules, name)().eval()


def mean_loss(network, name, rows=slice(None)):
    """PyTorch's own, a function of nothing: the parameters are the module's."""
    x, y = (torch.from_numpy(np.array(DATA[name][f"{part}_train"][rows])) for part in "xy")
    logits = network(x.permute(0, 3, 1, 2) if name == "ViT" else x)
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.long().flatten(), ignore_index=-100)


@pytest.fixture(scope="module", params=DATA)
def checked(request, tmp_path_factory):
    name, folder = request.param, tmp_path_factory.mktemp("transformers")
    torch.save(module(name).state_dict(), folder / "net.pt")
    np.savez(folder / "data.npz", **DATA[name])
    given = ["--data", str(folder / "data.npz"), "--module", f"{CODE}:{name}", "--preset", "fast"]
    main(["check", str(folder / "net.pt"), *given, "--report", str(folder / "page.html"), "--out", str(folder / "out")])
    return name, folder


@pytest.mark.slow
def test_from_the_file_to_the_page(checked):
    name, folder = checked
    assert "Diagnosis" in (folder / "page.html").read_text()
    row = read_table(folder / "out" / "table").models.iloc[0]
    assert row["status"] == "ok" or "trace known to" in row["status"], row[
        "status"
    ]  # of random weights it nearly cancels
    assert row["train_loss"] == pytest.approx(mean_loss(module(name), name).item(), rel=1e-5)


@pytest.mark.slow
def test_curvature_is_pytorchs():
    network = module(name := "GPT")
    settings = ["hessian.num_samples=24", "hessian.tolerance=1e-4", "hessian.max_probes=8"]
    arrays = DATA[name]
    data = arrays["x_train"][:24], arrays["y_train"][:24]
    task = arrays.get("task")
    given = {"metrics": "hessian", "task": task, "settings": settings, "show_progress": False}
    row = mdjax.measure(network, None, tuple(map(np.asarray, data)), **given).models.iloc[0]
    assert "not converged" not in row["status"], row["status"]
    # Power iteration by double backward, in float64, from mdjax's own value: it has to stay there.
    network = network.double()
    weights = [value for value in network.parameters() if value.requires_grad]
    gradient = torch.autograd.grad(mean_loss(network, name, slice(24)), weights, create_graph=True)
    vector, value = [torch.randn_like(part) for part in weights], 0.0
    for _ in range(100):
        scale = torch.sqrt(sum((part**2).sum() for part in vector))
        vector = [part / scale for part in vector]
        product = torch.autograd.grad(gradient, weights, vector, retain_graph=True)
        value = float(sum((first * other).sum() for first, other in zip(vector, product)))
        vector = [part.detach() for part in product]
    assert row["hessian_eigenvalue"] == pytest.approx(value, rel=1e-3)
