"""Archives that two readers read differently, and TorchScript whose code would run: nothing runs, and nothing hangs."""

import functools
import io
import json
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_pickles import PROTOCOL, name, saved, text, whole, zipped
from torch import nn
from torch_checkpoints import Network, assert_same

import converters
from converters import scripts
from mdjax.errors import InputError
from mdjax.zoo.data import load

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


class Writing(nn.Module):
    """A module whose TorchScript writes a file while it is loaded by torch."""

    def __init__(self, path: str):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.path = path

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weight * inputs

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool, str]:
        return self.weight, self.training, self.path

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool, str]) -> None:
        self.weight = torch.from_file(state[2], True, 4)
        self.training = state[1]
        self.path = state[2]


def entries_of(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(place, archive.read(place)) for place in archive.namelist()]


def script(module: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), file)
    return file.getvalue()


@functools.cache
def program() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2).eval(), (torch.ones(1, 2),)), file)
    return file.getvalue()


def harmless(code: bytes) -> bytes:
    return code.replace(b"__setstate__", b"__otherone__")


def renamed(entries: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    return [(place.replace(".py", ".PY"), content) for place, content in entries]


def doubled(entries: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The code twice: torch takes the first, Python the last."""
    return [*entries, *((place, harmless(content)) for place, content in entries if place.endswith(".py"))]


def cased(entries: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    codes = [(place, content) for place, content in entries if place.endswith(".py")]
    others = [(place, content) for place, content in entries if not place.endswith(".py")]
    return [*((place.upper(), content) for place, content in codes), *others, *((p, harmless(c)) for p, c in codes)]


HOW = {
    "as-it-is": (lambda entries: entries, "it is TorchScript that refers to __setstate__"),
    "upper-case": (renamed, "its code declares no module __torch__."),
    "twice": (doubled, "two of its entries have the name"),
    "two-cases": (cased, "two of its entries have the names"),
}


@pytest.fixture(scope="module")
def writing(tmp_path_factory) -> tuple[bytes, Path]:
    """The TorchScript of a module that writes a file as soon as torch loads it, and the file."""
    folder = tmp_path_factory.mktemp("writing")
    ran = folder / "ran"
    content = script(Writing(str(ran)))
    torch.jit.load(io.BytesIO(content))
    assert ran.exists()
    ran.unlink()
    return content, ran


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dry_run", [True, False])
def test_code_of_torchscript_does_not_run_however_it_is_named(writing, tmp_path, how, dry_run):
    content, ran = writing
    change, reason = HOW[how]
    hostile = tmp_path / "files" / "hostile.pt"
    hostile.parent.mkdir()
    hostile.write_bytes(zipped(change(entries_of(content))))
    report = converters.convert(hostile.parent, tmp_path / "zoo", dry_run=dry_run, show_progress=False)
    assert not ran.exists()
    assert [outcome.path.name for outcome in report.refused] == ["hostile.pt"]
    assert reason in report.refused[0].reason


def test_code_that_never_ends_is_not_run(tmp_path):
    class Looping(Writing):
        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool, str]) -> None:
            while True:
                self.training = state[1]

    (tmp_path / "model.pt").write_bytes(script(Looping("")))
    with pytest.raises(converters.RefusedError, match="refers to __setstate__"):
        converters.read_state_dict(tmp_path / "model.pt")


class Nested(nn.Module):
    """Weights of every kind that TorchScript stores: shared, tied, of half precision, transposed, and what is none."""

    def __init__(self):
        super().__init__()
        self.last = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.network = Network()
        self.register_buffer("counts", torch.arange(3))
        self.parts = nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(2)])
        self.shared = self.parts[0]
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.parts[0].weight
        self.short = nn.Parameter(torch.ones(2).half())
        self.plain = torch.ones(5)
        self.words = ["a", "b"]
        self.table = {"a": 1.5}
        self.nothing = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.tied(self.shared(inputs)) + self.last.sum() + self.short.float() + self.plain.sum()


def test_state_dicts_of_torchscript_are_those_that_torch_reads(tmp_path):
    (tmp_path / "model.pt").write_bytes(script(Nested()))
    expected = torch.jit.load(tmp_path / "model.pt").state_dict()
    found = converters.read_state_dict(tmp_path / "model.pt")
    assert list(found) == list(expected)
    assert_same(found, {key: (value.float() if key == "short" else value).numpy() for key, value in expected.items()})


def twice(content: bytes, place: str) -> bytes:
    return zipped([*entries_of(content), (place, b"")])


NAMES = {
    "model.pth": lambda: twice(saved(PROTOCOL + b"}."), "m/data.pkl"),
    "case.pt": lambda: twice(saved(PROTOCOL + b"}."), "M/Data.pkl"),
    "wide.pt": lambda: twice(saved(PROTOCOL + b"}."), "m/ｄata.pkl"),
    "script.pt": lambda: twice(script(nn.Linear(2, 2)), "archive/data.pkl"),
    "program.pt2": lambda: (content := program()) and twice(content, entries_of(content)[0][0].upper()),
}


@pytest.mark.parametrize("kind", NAMES)
def test_archives_with_a_name_twice_are_refused(tmp_path, kind):
    (tmp_path / kind).write_bytes(NAMES[kind]())
    with pytest.raises(converters.RefusedError, match="two of its entries have the name"):
        converters.read_state_dict(tmp_path / kind)


@pytest.mark.parametrize("other", ["x_train.npy", "X_train.npy", "x_train"])
def test_npz_files_with_a_name_twice_are_refused(tmp_path, other):
    file = io.BytesIO()
    arrays = {"x_train": np.ones((2, 3)), "x_test": np.ones((2, 3)), "y_train": np.arange(2), "y_test": np.arange(2)}
    np.savez(file, **arrays)
    assert load(write(tmp_path / "good.npz", file.getvalue())).num_classes == 2
    with pytest.raises(InputError, match="two of its entries have the name|twice"):
        load(write(tmp_path / "bad.npz", twice(file.getvalue(), other)))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path, method):
    content = zipped([("m/data.pkl", PROTOCOL + b"}.")], method)
    with pytest.raises(converters.RefusedError, match=f"compressed by method {method}"):
        converters.read_state_dict(write(tmp_path / "model.pt", content))
    with pytest.raises(InputError, match=f"compressed by method {method}"):
        load(write(tmp_path / "data.npz", content))


def modules(pickled: bytes, code: str) -> bytes:
    """A TorchScript archive of one class, with an empty list of constants."""
    entries = [("m/data.pkl", pickled), ("m/constants.pkl", PROTOCOL + b").")]
    return zipped([*entries, ("m/code/__torch__.py", code.encode())])


CODE = 'class A(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n'


def module(*attributes: bytes) -> bytes:
    return name("__torch__", "A") + b")\x81}" + b"".join(part + b"s" for part in attributes) + b"b"


def test_modules_in_themselves_or_without_end_are_refused_at_once(tmp_path):
    inner = module()
    for _ in range(40):  # two parts, each the same one of two parts: 2^40 ways through it
        inner += b"q\x01" + name("__torch__", "A") + b")\x81}" + text("a") + b"h\x01s" + text("b") + b"h\x01sb"
    deep = module()
    for _ in range(3000):
        deep += b"q\x01" + name("__torch__", "A") + b")\x81}" + text("a") + b"h\x01sb"
    itself = name("__torch__", "A") + b")\x81q\x01}" + text("a") + b"h\x01sb"
    for pickled in (inner, deep, itself):
        content = modules(PROTOCOL + pickled + b".", CODE)
        with pytest.raises(converters.RefusedError, match="its modules are more, or lie deeper in each other"):
            converters.read_state_dict(write(tmp_path / "model.pt", content))


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (name("__torch__", "B") + b")\x81}b", "its code declares no module __torch__.B"),
        (name("__torch__", "A") + b")\x81]b", "its code declares no module __torch__.A with attributes by name"),
        (name("__torch__", "A") + b")\x81", "its code declares no module __torch__.A with attributes by name"),
        (module(text("w") + whole(3)), "its entry w is a int, not a tensor|it holds no state_dict"),
        (name("__torch__.torch.classes.a", "B") + b")\x81}b", "it is TorchScript that refers to torch.classes"),
        (b"]", "it holds a list, not a module"),
    ],
)
def test_crafted_modules_are_refused(tmp_path, pickled, reason):
    pickletools.dis(PROTOCOL + pickled + b".", io.StringIO())  # a sound pickle
    with pytest.raises(converters.RefusedError, match=reason):
        converters.read_state_dict(write(tmp_path / "model.pt", modules(PROTOCOL + pickled + b".", CODE)))


@pytest.mark.parametrize(
    "code",
    ["a" * 2**22, "class A(Module):\n" + '  __parameters__ = ["w", ]\n' * 2_000, CODE + "\n" * 2**17],
)
def test_code_that_would_take_many_times_its_length_is_refused(tmp_path, code, monkeypatch):
    monkeypatch.setattr(scripts, "_MOST_CODE", 2**16)
    monkeypatch.setattr(scripts, "_MOST_ATTRIBUTES", 1000)
    with pytest.raises(converters.RefusedError, match="a line of more than|its code is longer, or declares more"):
        converters.read_state_dict(write(tmp_path / "model.pt", modules(PROTOCOL + module() + b".", code)))


def test_long_names_of_attributes_are_not_joined_again_and_again(tmp_path):
    content = modules(PROTOCOL + module(text("w" * 1001) + b"N") + b".", CODE)
    with pytest.raises(converters.RefusedError, match="its modules are more, or lie deeper"):
        converters.read_state_dict(write(tmp_path / "model.pt", content))
    content = modules(PROTOCOL + module(b"K\x01N") + b".", CODE)
    with pytest.raises(converters.RefusedError, match="declares no module __torch__.A with attributes by name"):
        converters.read_state_dict(write(tmp_path / "model.pt", content))


def test_a_list_of_tensors_that_is_longer_than_any_is_not_read(tmp_path):
    config = b'{"config":{},"x":[' + b" " * 2**25 + b"]}"
    content = zipped([("m/data/weights/model_weights_config.json", config)], zipfile.ZIP_DEFLATED)
    with pytest.raises(converters.RefusedError, match="has 33554452 bytes, but at most 33554432 are expected"):
        converters.read_state_dict(write(tmp_path / "model.pt2", content))


@pytest.mark.parametrize(
    "change",
    [{"sizes": [{"as_int": -1}]}, {"sizes": [{"as_int": 2**62}] * 2}, {"sizes": [{"as_int": "2"}]}, {"dtype": [7]}],
)
def test_crafted_shapes_of_exported_programs_are_refused(tmp_path, change):
    entries = dict(entries_of(program()))
    (place,) = [place for place in entries if place.endswith("_weights_config.json")]
    content = json.loads(entries[place])
    next(iter(content["config"].values()))["tensor_meta"].update(change)
    entries[place] = json.dumps(content).encode()
    with pytest.raises(converters.RefusedError, match="it is truncated, damaged"):
        converters.read_state_dict(write(tmp_path / "model.pt2", zipped(list(entries.items()))))
