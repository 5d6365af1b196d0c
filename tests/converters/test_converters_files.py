"""Checkpoint files: every container and wrapper gives the same arrays, and no hostile file runs or stops a sweep."""

import argparse
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import converters
from converters import containers, safetensors_files
from converters.cli import main
from mdjax.zoo.store import Zoo


class Network(nn.Module):
    """A convolution, BatchNorm and a linear layer: entries of every kind, one of them a counter."""

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            for value in self.state_dict().values():
                value.copy_(torch.randn(value.shape, generator=generator).abs().mul(100))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


STATE = Network().eval().state_dict()
OTHER = Network(1).state_dict()
EXPECTED = {name: value.numpy() for name, value in STATE.items()}
OTHERS = {name: value.numpy() for name, value in OTHER.items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray] = EXPECTED, rtol: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_allclose(found[name], array, rtol=rtol, err_msg=name)


def prefixed(*prefixes: str) -> dict[str, torch.Tensor]:
    return {"".join(prefixes) + name: value for name, value in STATE.items()}


def script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(Network().eval(), torch.ones(1, 3, 6, 6)), path)


def program(path: Path) -> None:
    torch.export.save(torch.export.export(Network().eval(), (torch.ones(1, 3, 6, 6),)), path)


def sharded(path: Path) -> None:
    names = list(STATE)
    places = {}
    for number, part in enumerate((names[:4], names[4:]), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file({name: STATE[name] for name in part}, path.parent / shard)
        places |= dict.fromkeys(part, shard)
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def sharded_pickles(path: Path) -> None:
    torch.save(dict(list(STATE.items())[:3]), path.parent / "a.bin")
    torch.save(dict(list(STATE.items())[3:]), path.parent / "b.bin")
    places = {name: "a.bin" if place < 3 else "b.bin" for place, name in enumerate(STATE)}
    path.write_text(json.dumps({"weight_map": places}))


CONTAINERS = {
    "model.pt": lambda path: torch.save(STATE, path),
    "model.pth": lambda path: torch.save(dict(STATE), path, _use_new_zipfile_serialization=False),
    "model.pkl": lambda path: torch.save(OrderedDict(STATE), path, pickle_protocol=3),
    "model.safetensors": lambda path: safetensors.torch.save_file(STATE, path),
    "weights": lambda path: safetensors.torch.save_file(STATE, path, metadata={"format": "pt"}),
    "script.pt": script,
    "program.pt2": program,
    "model.safetensors.index.json": sharded,
    "pytorch_model.bin.index.json": sharded_pickles,
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_every_container_gives_the_same_arrays(tmp_path, name):
    CONTAINERS[name](tmp_path / name)
    assert_same(converters.read_state_dict(tmp_path / name))


def test_exported_programs_of_before_torch_2_8_are_read(tmp_path):
    weights = io.BytesIO()
    torch.save(STATE, weights)
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", weights.getvalue())
    assert_same(converters.read_state_dict(tmp_path / "old.pt2"))


def numpy_one(content: object) -> bytes:
    """As numpy 1 spelled its module's name."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


WRAPPERS = {
    "net": lambda: {"net": STATE, "acc": 93.1, "epoch": 3},
    "state_dict and optimizer": lambda: {
        "state_dict": STATE,
        "optimizer": torch.optim.SGD(Network().parameters(), lr=0.1, momentum=0.9).state_dict(),
    },
    "model_state": lambda: {"epoch": 2, "model_state": STATE, "optimizer_state": {}},
    "model": lambda: {"model": STATE, "args": {"lr": 0.1}},
    "a name of its own": lambda: {"generator": STATE, "step": torch.tensor(3)},
    "twice": lambda: {"model": {"state_dict": STATE, "step": 3}},
    "Lightning": lambda: {
        "state_dict": prefixed("model."),
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "momentum": 0.9}]}],
        "epoch": 4,
    },
    "timm": lambda: {"arch": "resnet18", "state_dict": STATE, "state_dict_ema": OTHER, "epoch": 1},
    "numpy scalar": lambda: {"net": STATE, "acc": np.float64(93.1), "history": np.arange(3), "last": np.int32(3)},
    "DataParallel": lambda: prefixed("module."),
    "compiled in DataParallel": lambda: prefixed("module.", "_orig_mod."),
    "DataParallel compiled": lambda: prefixed("_orig_mod.", "module."),
    "Lightning compiled": lambda: {"state_dict": prefixed("net.", "_orig_mod.")},
    "AveragedModel": lambda: {"n_averaged": torch.tensor(5), **prefixed("module.")},
    "AveragedModel of DataParallel": lambda: {"n_averaged": torch.tensor(5), **prefixed("module.", "module.")},
    "numpy arrays": lambda: {"state_dict": STATE, "mean": np.ones(3)},
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, name):
    torch.save(WRAPPERS[name](), tmp_path / "model.ckpt")
    assert_same(converters.read_state_dict(tmp_path / "model.ckpt"))


def test_scalars_of_numpy_1_are_read(tmp_path):
    content = numpy_one({"net": STATE, "acc": np.float64(93.1)})
    assert b"numpy.core.multiarray" in content
    (tmp_path / "model.pt").write_bytes(content)
    assert_same(converters.read_state_dict(tmp_path / "model.pt"))


@pytest.mark.parametrize("names", [["module_list.0.weight", "module_list.3.weight"], ["modules.a", "model_b.c"]])
def test_names_that_only_look_like_prefixes_stay(tmp_path, names):
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "model.pt")
    assert list(converters.read_state_dict(tmp_path / "model.pt")) == names


def test_a_prefix_that_not_all_share_stays(tmp_path):
    entries = {**prefixed("module."), "scale": torch.ones(1)}
    torch.save(entries, tmp_path / "model.pt")
    assert converters.read_state_dict(tmp_path / "model.pt").keys() == entries.keys()


def test_averaged_weights_are_taken_on_request(tmp_path):
    torch.save(WRAPPERS["timm"](), tmp_path / "model.pth.tar")
    assert_same(converters.read_state_dict(tmp_path / "model.pth.tar", converters.Reading(ema=True)), OTHERS)
    torch.save({"model": STATE, "model_ema": prefixed("module.")}, tmp_path / "other.pt")
    assert_same(converters.read_state_dict(tmp_path / "other.pt", converters.Reading(ema=True)))
    torch.save({"model": STATE}, tmp_path / "none.pt")
    with pytest.raises(converters.RefusedError, match="it holds no averaged weights"):
        converters.read_state_dict(tmp_path / "none.pt", converters.Reading(ema=True))


# Reparametrisations against torch's own result.


def weight_normed() -> tuple[nn.Module, nn.Module]:
    network = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(3, 4, 3), nn.Linear(4, 3))
    nn.utils.weight_norm(network[0])
    nn.utils.weight_norm(network[1], dim=1)
    nn.utils.weight_norm(network[2], dim=None)
    return network, nn.utils.remove_weight_norm


def newly_weight_normed() -> tuple[nn.Module, nn.Module]:
    network = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(3, 4, 3))
    parametrizations.weight_norm(network[0])
    parametrizations.weight_norm(network[1], dim=1)
    return network, lambda layer: nn.utils.parametrize.remove_parametrizations(layer, "weight")


def pruned() -> tuple[nn.Module, nn.Module]:
    network = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(3, 4, 3))
    for layer in network:
        prune.random_unstructured(layer, "weight", 0.5)
    return network, lambda layer: prune.remove(layer, "weight")


@pytest.mark.parametrize("make", [weight_normed, newly_weight_normed, pruned])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_reparametrisations_are_folded_as_torch_does(tmp_path, make):
    torch.manual_seed(0)
    network, remove = make()
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(torch.rand_like(value) + 0.5)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    for layer in network:
        layer(torch.ones(1, 3, 5, 5) if isinstance(layer, nn.Conv2d) else torch.ones(1, layer.in_features))
        remove(layer)
    expected = {name: value.numpy() for name, value in network.state_dict().items()}
    found = converters.read_state_dict(tmp_path / "model.pt")
    assert_same({name: found[name] for name in sorted(found)}, dict(sorted(expected.items())), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_half_precision_is_widened(tmp_path, dtype, suffix):
    values = torch.tensor([0.5, -1.75, 3.0, 240.0])
    path = tmp_path / f"model{suffix}"
    entries = {"weight": values.to(dtype), "count": torch.tensor(3)}
    torch.save(entries, path) if suffix == ".pt" else safetensors.torch.save_file(entries, path)
    assert_same(converters.read_state_dict(path), {"weight": values.numpy(), "count": np.array(3)})


# What is refused, and why.


class _Command:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def header(content: object, data: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], offsets: list[int]) -> dict:
    return {"w": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}


def index(place: object) -> bytes:
    return json.dumps({"weight_map": {"w": place}}).encode()


def tar() -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("../outside")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    return file.getvalue()


def exported(**changes: object) -> bytes:
    entry = {"path_name": "weight_0", "is_param": True, "use_pickle": False}
    sizes = [{"as_int": 2}]
    strides, offset = [{"as_int": 1}], {"as_int": 0}
    entry["tensor_meta"] = {"dtype": 7, "sizes": sizes, "strides": strides, "storage_offset": offset}
    for name, value in changes.items():
        (entry if name in entry else entry["tensor_meta"])[name] = value
    config = json.dumps({"config": {"w": entry}}).encode()
    weights = saved({"a": _Command("touch ran")})
    return zipped({"m/data/weights/m_weights_config.json": config, "m/data/weights/weight_0": weights})


def spectral() -> dict[str, torch.Tensor]:
    return parametrizations.spectral_norm(nn.Linear(3, 2)).state_dict()


def deep() -> bytes:
    """Lists in lists, ten thousand deep."""
    pickled = b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b"."
    return zipped({"m/data.pkl": pickled, "m/version": b"3", "m/byteorder": b"little"})


REFUSED = {
    "empty.pt": (lambda: b"", "it is empty"),
    "text.pt": (lambda: b"hello", "it is truncated, damaged, or not written by torch.save"),
    "raw.pkl": (lambda: pickle.dumps({"a": 1}), "it is truncated, damaged"),
    "cut.pt": (lambda: saved(STATE)[:2000], "it is truncated, damaged"),
    "cut-old.pt": (lambda: saved(STATE, _use_new_zipfile_serialization=False)[:-9], "it is truncated, damaged"),
    "deep.pt": (deep, "it holds a list, not a state_dict"),
    "protocol.pt": (lambda: saved(STATE, pickle_protocol=4), "it is pickled by a protocol newer than torch's own"),
    "archive.tar": (tar, "it is a tar archive; unpack it"),
    "list.pt": (lambda: saved([torch.ones(2)]), "it holds a list, not a state_dict"),
    "nothing.pt": (lambda: saved({}), "it holds nothing"),
    "number.pt": (lambda: saved({**STATE, "step": 3}), "its entry step is a int, not a tensor"),
    "optimizer.pt": (
        lambda: saved({"state": {0: {"step": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}),
        "it holds no state_dict; its entries are state, param_groups",
    ),
    "two.pt": (lambda: saved({"net": STATE, "model": OTHER}), "it holds 2 state_dicts: model, net"),
    "gan.pt": (lambda: saved({"critic": STATE, "actor": OTHER}), "it holds 2 state_dicts: actor, critic"),
    "namespace.pt": (
        lambda: saved({"model": STATE, "args": argparse.Namespace(lr=0.1), "path": Path("x")}),
        "it refers to argparse.Namespace, pathlib.PosixPath, which plain weights do not need; nothing was run. "
        "Pass --trust",
    ),
    "namespace-old.pt": (
        lambda: saved({"args": argparse.Namespace(lr=0.1)}, _use_new_zipfile_serialization=False),
        "it refers to argparse.Namespace",
    ),
    "module.pt": (lambda: saved(nn.Linear(2, 3)), "torch.nn.modules.linear.Linear"),
    "quantized.pt": (
        lambda: saved({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}),
        "it is quantized (entry w)",
    ),
    "packed.pt": (
        lambda: saved({"fc.scale": torch.ones(1), "fc._packed_params._packed_params": torch.ones(2)}),
        "it is quantized (entry fc._packed_params._packed_params)",
    ),
    "curve.pt": (
        lambda: saved({f"net.fc.weight_{number}": torch.ones(2, 2) for number in range(3)}),
        "it holds a curve of networks",
    ),
    "spectral.pt": (lambda: saved(spectral()), "parametrised by something other than weight normalisation"),
    "lengths.pt": (
        lambda: saved({"w_g": torch.ones(3, 1), "w_v": torch.ones(2, 2)}),
        "its entry w_g of shape [3, 1] is no length",
    ),
    "mask.pt": (
        lambda: saved({"w_orig": torch.ones(2), "w_mask": torch.ones(3)}),
        "its entry w_mask has shape [3], not [2]",
    ),
    "huge.pt": (
        lambda: saved({"w": torch.ones(1).expand(10**6, 10**6)}),
        "its entry w claims 1000000000000 numbers, more than are stored",
    ),
    "bomb.pt": (
        lambda: zipped({"m/data.pkl": bytes(3 * 10**7)}, zipfile.ZIP_DEFLATED),
        "bytes unpack to 30000000, which weights never do",
    ),
    "many.pt": (lambda: zipped(dict.fromkeys(map(str, range(51)), b"")), "it has 51 entries, but at most 50"),
    "short.safetensors": (lambda: b"abc", "it is cut off"),
    "claims.safetensors": (lambda: struct.pack("<Q", 2**40) + b"{}", "its header says 1099511627776 bytes, but 2"),
    "long.safetensors": (lambda: header(b" " * 4096), "its header has 4096 bytes, but at most 2048"),
    "syntax.safetensors": (lambda: header(b"{'a'"), "it is no sound safetensors file"),
    "nested.safetensors": (lambda: header(b"[" * 2000), "it is no sound safetensors file"),
    "outside.safetensors": (lambda: header(tensor([9], [0, 36]), bytes(4)), "it is no sound safetensors file"),
    "overflow.safetensors": (lambda: header(tensor([2**62, 2**62], [0, 4]), bytes(4)), "it is no sound safetensors"),
    "negative.safetensors": (lambda: header(tensor([-1], [0, 4]), bytes(4)), "it is no sound safetensors file"),
    "up.safetensors.index.json": (lambda: index("../model.safetensors"), "it names the file '../model.safetensors'"),
    "root.safetensors.index.json": (lambda: index("/etc/passwd"), "it names the file '/etc/passwd', which is not"),
    "windows.safetensors.index.json": (lambda: index("..\\a"), "which is not simply the name of one in its folder"),
    "dots.safetensors.index.json": (lambda: index(".."), "it names the file '..'"),
    "missing.safetensors.index.json": (lambda: index("absent.safetensors"), "shard absent.safetensors: it does not"),
    "type.safetensors.index.json": (lambda: index(3), "it is no index of shards"),
    "list.safetensors.index.json": (lambda: b"[1]", "it is no index of shards"),
    "text.safetensors.index.json": (lambda: b"hello", "it is no index of shards"),
    "nested.safetensors.index.json": (lambda: b"[" * 2000, "it is no index of shards"),
    "pickled.pt2": (lambda: exported(use_pickle=True), "it refers to posix.system, which plain weights do not"),
    "leaves.pt2": (lambda: exported(sizes=[{"as_int": 10**6}]), "it is truncated, damaged"),
    "type.pt2": (lambda: exported(dtype=9), "its entry w has the unexpected type number 9"),
    "up.pt2": (lambda: exported(path_name="../../weight_0"), "it is truncated, damaged"),
}


@pytest.fixture
def low_limits(monkeypatch):
    monkeypatch.setattr(containers, "MAX_ENTRIES", 50)
    monkeypatch.setattr(safetensors_files, "MAX_HEADER", 2048)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_with_its_reason(tmp_path, name, low_limits):
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(converters.RefusedError) as raised:
        converters.read_state_dict(tmp_path / name)
    assert reason in str(raised.value)
    assert "weights_only" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_shards_hold_what_the_index_says_and_no_more(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    sharded(path)
    content = json.loads(path.read_text())
    del content["weight_map"]["head.bias"]
    path.write_text(json.dumps(content))
    with pytest.raises(converters.RefusedError, match="shard model-00002-of-00002.safetensors does not hold the entr"):
        converters.read_state_dict(path)


class Restoring(nn.Module):
    """A module whose TorchScript runs code when it is loaded."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weight * inputs

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_torchscript_that_restores_itself_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(Restoring()), tmp_path / "model.pt")
    with pytest.raises(converters.RefusedError, match="TorchScript that refers to __setstate__, which would run code"):
        converters.read_state_dict(tmp_path / "model.pt")
    assert list(converters.read_state_dict(tmp_path / "model.pt", converters.Reading(trust=True))) == ["weight"]


@pytest.mark.parametrize("how", ["zip", "old", "raw", "wrapped", "shard"])
def test_hostile_files_do_not_run(tmp_path, how):
    path, trace = tmp_path / "model.pt", tmp_path / "ran"
    content = {"conv.weight": _Command(f"touch {trace}")}
    if how == "raw":
        path.write_bytes(pickle.dumps(content))
    elif how == "shard":
        torch.save(content, tmp_path / "a.bin")
        path = tmp_path / "model.bin.index.json"
        path.write_text(json.dumps({"weight_map": {"conv.weight": "a.bin"}}))
    else:
        torch.save(
            {"net": STATE, **content} if how == "wrapped" else content,
            path,
            _use_new_zipfile_serialization=how != "old",
        )
    with pytest.raises(converters.RefusedError) as raised:
        converters.read_state_dict(path)
    assert not trace.exists()
    if how != "raw":
        assert "posix.system, which plain weights do not need; nothing was run. Pass --trust" in str(raised.value)


def test_trust_loads_whole_modules_namespaces_and_newer_pickles(tmp_path):
    torch.save({"model": Network(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "wrapped.pt")
    torch.save(Network(), tmp_path / "module.pt")
    torch.save(STATE, tmp_path / "protocol.pt", pickle_protocol=4)
    for name in ("wrapped.pt", "module.pt", "protocol.pt"):
        with pytest.raises(converters.RefusedError):
            converters.read_state_dict(tmp_path / name)
        assert_same(converters.read_state_dict(tmp_path / name, converters.Reading(trust=True)))


def test_trusted_file_whose_classes_are_not_there_is_refused(tmp_path, monkeypatch):
    torch.save(Network(), tmp_path / "module.pt")
    monkeypatch.delattr(sys.modules[__name__], "Network")
    with pytest.raises(converters.RefusedError, match=r"Network, .* and loading it failed: .*Network"):
        converters.read_state_dict(tmp_path / "module.pt", converters.Reading(trust=True))


# A sweep over all of it.


def test_a_sweep_goes_on_whatever_a_file_is(tmp_path, monkeypatch, capsys, low_limits):
    src, out = tmp_path / "src", tmp_path / "zoo"
    src.mkdir()
    monkeypatch.chdir(src)
    for name, (content, _) in REFUSED.items():
        (src / name).write_bytes(content())
    torch.save({"conv.weight": _Command(f"touch {src}/ran")}, src / "hostile.pt")
    (src / "folder.pt").mkdir()
    os.mkfifo(src / "pipe.pt")
    (src / "gone.pt").symlink_to("nowhere")
    (src / "loop").symlink_to(src)
    (src / "notes.txt").write_text("not looked at")
    (src / "seed7.pth").write_bytes(saved({"linear.weight": torch.ones(3, 4), "linear.bias": torch.ones(3)}))
    with pytest.raises(SystemExit) as stopped:
        main([str(src), "--out", str(out), "--dry-run"])
    assert stopped.value.code == 1
    assert not out.exists()
    with pytest.raises(SystemExit) as stopped:
        main([str(src), "--out", str(out)])
    assert stopped.value.code == 1
    assert not (src / "ran").exists()
    lines = capsys.readouterr().out.splitlines()
    shown, lines = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert any("would be converted" in line for line in shown)
    expected = {name: reason for name, (_, reason) in REFUSED.items()}
    expected |= {"hostile.pt": "it refers to posix.system", "pipe.pt": "it is no regular file"}
    expected |= {"gone.pt": "it does not exist"}
    for name, reason in expected.items():
        assert any("refused" in line and f"/{name} " in line and reason in line for line in lines), name
    assert sum("refused" in line for line in lines) == len(expected)
    assert Zoo(out).manifest["model_id"].tolist() == ["src/seed7.pth"]
    assert Zoo(out).manifest["seed"].tolist() == [7]


def test_an_unreadable_file_and_folder_are_told(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    torch.save({"linear.weight": torch.ones(3, 4)}, tmp_path / "good.pt")
    torch.save(STATE, tmp_path / "model.pt")
    scandir, opened = os.scandir, Path.open

    def refuse(name, proceed):
        def call(path, *arguments, **options):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return proceed(path, *arguments, **options)

        return call

    # Rather than by modes, which do not stop the superuser.
    monkeypatch.setattr(os, "scandir", refuse("closed", scandir))
    monkeypatch.setattr(Path, "open", refuse("model.pt", opened))
    report = converters.convert(tmp_path, tmp_path / "zoo", show_progress=False)
    assert {outcome.path.name: outcome.reason for outcome in report.refused} == {
        "closed": "it cannot be opened: Permission denied",
        "model.pt": "it cannot be read: Permission denied",
    }
    assert [outcome.path.name for outcome in report.converted] == ["good.pt"]
