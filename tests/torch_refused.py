"""Checkpoint files that cannot be taken: name → content, and what the refusal says."""

import argparse
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch_checkpoints import OTHER, STATE, Command, saved


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
    weights = saved({"a": Command("touch ran")})
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
        "what is packed in it would take 28.6 MiB of memory",
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
