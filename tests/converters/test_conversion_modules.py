"""Networks of no known family: by their own code, held against PyTorch's logits and gradients; else the Python way."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch_checkpoints import convert, reasons
from torch_resnet import random_resnet

import converters
import mdjax
from converters import NoteCode
from converters.cli import main
from converters.own_modules import OwnModule
from converters.specifications import specification
from mdjax.errors import InputError
from mdjax.zoo.store import Zoo

CODE = """
import torch, os
from torch import nn
import torch.nn.functional as F
from sibling import SIZE

class Convolutional(nn.Module):
    def __init__(self, width=3, bias=True):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 4, 3, stride=2)
        self.head = nn.Linear(SIZE, 10)
    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.norm(self.first(x))), 2, 1)
        x = F.dropout(F.leaky_relu(self.second(x)), training=self.training)
        return self.head(x.view(x.size(0), -1))

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 5, 2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(5, 10))
    def forward(self, x):
        return self.head(F.silu(self.body(x)))

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 7), nn.GELU(), nn.Linear(7, 10, bias=False))
    def forward(self, x):
        return self.net(x.flatten(1))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(size, 4, 3, padding=1) for size in (1, 4, 4))
        self.c.weight, self.c.bias = self.b.weight, self.b.bias
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 10)
    def forward(self, x):
        for layer in (self.a, self.b, self.c, self.b):
            x = torch.tanh(layer(x))
        x = x.mean((2, 3))
        for _ in range(3):
            x = torch.sigmoid(self.hidden(x))
        return self.head(x)

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        layer, block = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        start = nn.Flatten(), nn.Linear(64, 8), nn.Tanh()
        self.body = nn.Sequential(*start, layer, nn.ReLU(), layer, block, block, layer)
        self.head = nn.Linear(8, 10)
    def forward(self, x):
        return self.head(self.body(x))

class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)
        self.again, self.normed, self.layers = self.first, self.norm, nn.ModuleList([self.head])
    def forward(self, x):
        return self.layers[0](self.normed(self.again(x)).mean((2, 3)))

class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.unused, self.head = nn.Linear(64, 6), nn.Linear(64, 6), nn.Linear(6, 10)
        self.unused.weight, self.unused.bias = self.first.weight, self.first.bias
    def forward(self, x):
        return self.head(torch.tanh(self.first(x.flatten(1))))

class OtherStride(Tied):
    def __init__(self):
        super().__init__()
        self.c.stride = 2, 2
    def forward(self, x):
        return self.head(torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))).mean((2, 3)))

class SameNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)
    def forward(self, x):
        return self.head(self.norm(torch.relu(self.norm(self.a(x)))).mean((2, 3)))

class NoGrad(Wrapped):
    def forward(self, x):
        with torch.no_grad():
            x = self.net[0](x.flatten(1))
        return self.net[2](self.net[1](x))

class Detached(Wrapped):
    def forward(self, x):
        return self.net[2](self.net[1](self.net[0](x.flatten(1))).detach())

class Skip(Wrapped):
    def forward(self, x):
        hidden = self.net[1](self.net[0](x.flatten(1)))
        return self.net[2](hidden + torch.tanh(hidden))

class Random(Wrapped):
    def forward(self, x):
        return self.net[2](F.dropout(self.net[1](self.net[0](x.flatten(1)))))

class Unused(Wrapped):
    def __init__(self):
        super().__init__()
        self.net.append(nn.Linear(10, 3))
    def forward(self, x):
        return self.net[2](self.net[1](self.net[0](x.flatten(1))))

class Branching(Wrapped):
    def forward(self, x):
        return self.net(x.flatten(1)) if x.sum() > 0 else self.net(-x.flatten(1))
"""
TAKEN = ("Convolutional", "Pooled", "Wrapped", "Tied", "Twice", "Renamed", "Shared")
LEFT = {
    "OtherStride": "it has 2 unknown entries",
    "SameNorm": "'@norm' repeats no layer",
    "NoGrad": "its trace does not show all that it does; as sequence its logits or gradients differ",
    "Detached": "its detach is none of the layers",
    "Skip": "its add reads something else than the layer before it",
    "Random": "its dropout is none of the layers",
    "Unused": "it has 2 unknown entries",
    "Branching": "cannot be traced",
}


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    (tmp_path / "sibling.py").write_text("SIZE = 4 * 3 * 3")
    (tmp_path / "mynet.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mynet.py"


def made(code: Path, name: str, seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OwnModule(f"{code}:{name}").module.eval()


def put(code: Path, name: str, seed: int = 0) -> Path:
    folder = code.parent / "src"
    folder.mkdir(exist_ok=True)
    torch.save({"model": made(code, name, seed).state_dict(), "epoch": 3}, folder / f"seed{seed}.pt")
    return folder / f"seed{seed}.pt"


@pytest.mark.parametrize("name", TAKEN)
def test_a_sequence_of_layers_is_converted_by_its_code(code, name, capsys):
    for seed in (0, 1):
        put(code, name, seed)
    with pytest.raises(SystemExit) as stopped:
        main(["src", "--out", "zoo", "--module", f"mynet.py:{name}", "--data", "digits"])
    assert stopped.value.code == 0, capsys.readouterr().out
    zoo = Zoo("zoo")
    assert zoo.manifest["input_shape"].tolist() == ["8x8x1"] * 2
    images = np.random.RandomState(0).normal(size=(5, 8, 8, 1)).astype("f4")
    for _, row in zoo.manifest.iterrows():
        params, state = jax.tree.map(lambda leaf, row=row: leaf[row["position"]], zoo.read_group(row["group"]))
        found = zoo.architecture(row["group"]).model().apply(params, state, images)
        with torch.no_grad():
            expected = made(code, name, row["seed"])(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", LEFT)
def test_other_code_is_left_to_python(code, name):
    path = put(code, name)
    report = convert(path, None, dry_run=True, module=f"mynet.py:{name}")
    (refused,) = report.refused
    assert LEFT[name] in refused.reason
    (note,) = report.notes
    assert note.code == NoteCode.OWN_MODULE
    assert f"converters.from_module({name}(), example_inputs)" in note.sentence


def lines(report: converters.Report) -> str:
    (note,) = report.notes
    return "\n".join(line.strip() for line in note.sentence.splitlines() if line.startswith("  "))


@pytest.mark.parametrize(("name", "given"), [("Skip", True), ("Convolutional", False)])
def test_the_lines_that_are_printed_measure_the_file(code, name, given, monkeypatch):
    if importlib.util.find_spec("torchax") is None:  # importing it would set its telemetry
        pytest.skip("torchax is not installed; pip install 'mdjax[torchax]'")
    path = put(code, name)
    options = {"module": f"mynet.py:{name}"} if given else {}
    report = convert(path, None, dry_run=True, data="digits", **options)
    if not given:
        assert "give the network's code with --module FILE.py:CLASS" in report.refused[0].reason
    text = lines(report)
    assert str(path) in text
    monkeypatch.syspath_prepend(str(code.parent))
    scope = {"converters": converters, "mdjax": mdjax, "torch": torch, "YourNetwork": lambda: made(code, name)}
    text = text.replace("data='digits'", "data='digits', metrics='losses', preset='fast', show_progress=False")
    exec(text, scope)
    assert scope["table"].models["status"].tolist() == ["ok"]


@pytest.mark.slow
def test_a_known_family_is_held_against_its_code(code):
    folder = code.parent / "src"
    folder.mkdir()
    network = random_resnet(1, 0)
    torch.save(network.state_dict(), folder / "seed0.pt")
    assert len(convert(folder, None, dry_run=True, module=network).converted) == 1

    class Other(type(network)):
        def forward(self, images):
            return super().forward(images).tanh()

    network.__class__ = Other
    (refused,) = convert(folder, None, dry_run=True, module=network).refused
    assert "as resnet18 its logits or gradients differ" in refused.reason


def test_every_entry_is_used(code):
    path = put(code, "Wrapped")
    state = torch.load(path)["model"]
    for change, reason in (
        (lambda: state.pop("net.2.weight"), "it lacks 1 entries of Wrapped(), first net.2.weight"),
        (lambda: state.update({"net.2.weight": torch.ones(10, 7), "net.x": torch.ones(1)}), "unknown to the module"),
        (lambda: (state.pop("net.x"), state.update({"net.0.bias": torch.ones(8)})), "size mismatch for net.0.bias"),
    ):
        change()
        torch.save(state, path)
        assert reason in reasons(convert(path, None, dry_run=True, module="mynet.py:Wrapped"))["seed0.pt"]


def test_arguments_of_the_class(code):
    put(code, "Convolutional(5, bias=False)")
    command = ["src", "--dry-run", "--module", "mynet.py:Convolutional"]
    for arguments, status in (("5, bias=False", 0), ("4, bias=False", 1), ("5", 1)):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--module-args", arguments])
        assert stopped.value.code == status


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mynet.py", "Give the network's code as FILE.py:CLASS"),
        ("nonet.py:Net", "There is no file nonet.py"),
        ("mynet.py:Net", "mynet.py has no 'Net'; it has Convolutional, Pooled"),
        ("mynet.py:SIZE", "has no 'SIZE'"),
        ("broken.py:Net", "Cannot run broken.py: ZeroDivisionError"),
        ("mynet.py:Wrapped(1)", r"Wrapped\(1\) raised TypeError"),
        ("mynet.py:Wrapped(print(1))", "Write plain values as in Python"),
        ("mynet.py:Wrapped(", "Cannot read"),
    ],
)
def test_code_that_is_none(code, text, message):
    put(code, "Wrapped")
    (code.parent / "broken.py").write_text("1 / 0")
    with pytest.raises(InputError, match=message):
        convert(code.parent / "src", None, dry_run=True, module=text)


def test_the_checkpoint_is_read_safely_still(code):
    from torch_checkpoints import Command

    (code.parent / "src").mkdir()
    torch.save({"a": Command("touch ran")}, code.parent / "src/seed0.pt")
    report = convert(code.parent / "src", None, dry_run=True, module="mynet.py:Wrapped")
    assert "nothing was run" in report.refused[0].reason
    assert not (code.parent / "ran").exists()


def test_facts_that_the_code_tells_are_errors(code):
    put(code, "Wrapped")
    with pytest.raises(InputError, match="The module tells its nonlinearity"):
        convert(code.parent / "src", None, dry_run=True, module="mynet.py:Wrapped", facts={"nonlinearity": "relu"})


@pytest.mark.parametrize(
    "part",
    [
        torch.nn.Conv2d(1, 2, (3, 1)),
        torch.nn.Conv2d(1, 2, 3, dilation=2),
        torch.nn.Conv2d(2, 2, 3, groups=2),
        torch.nn.Conv2d(1, 2, 3, padding_mode="reflect"),
        torch.nn.LeakyReLU(0.2),
        torch.nn.ELU(0.5),
        torch.nn.GELU("tanh"),
        torch.nn.ReLU6(),
        torch.nn.BatchNorm2d(1, eps=1e-3),
        torch.nn.BatchNorm2d(1, affine=False),
        torch.nn.MaxPool2d(2, ceil_mode=True),
        torch.nn.AvgPool2d(2, count_include_pad=False),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(2),
        torch.nn.LayerNorm(4),
    ],
    ids=str,
)
def test_layers_with_other_settings_are_none_of_a_sequence(part):
    module = torch.nn.Sequential(part, torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    with pytest.raises(converters.RefusedError, match="is none of the layers of a sequence"):
        specification(module)


def test_a_layer_under_several_names_is_one_with_each_of_them(code):
    module = made(code, "Twice")
    text = specification(module)
    assert text.split() == [
        *("flatten", "body.1=dense8", "tanh", "body.3=dense8", "relu", "body.5=@body.3"),
        *("body.6.0=dense8", "tanh", "body.7.0=@body.6.0", "tanh", "body.8=@body.3", "head=dense10"),
    ]


@pytest.mark.parametrize("name", ["Twice", "Tied", "Renamed", "Shared"])
def test_of_what_is_tied_one_entry_is_enough_and_others_have_to_be_equal(code, name):
    path = put(code, name)
    state = torch.load(path)["model"]
    places: dict[int, list[str]] = {}
    for key, value in state.items():
        if value.numel() > 1:
            places.setdefault(value.data_ptr(), []).append(key)
    tied = [keys for keys in places.values() if len(keys) > 1]
    assert tied
    for kept in (0, -1):
        left_out = {key for keys in tied for key in keys if key != keys[kept]}
        torch.save({key: value for key, value in state.items() if key not in left_out}, path)
        report = convert(path, None, dry_run=True, module=f"mynet.py:{name}", data="digits")
        assert not report.refused, reasons(report)
    first, second, *_ = tied[0]
    torch.save(state | {second: state[second] + 1}, path)
    report = convert(path, None, dry_run=True, module=f"mynet.py:{name}", data="digits")
    assert f"its entries {first} and {second} differ, but are tied" in reasons(report)["seed0.pt"]
