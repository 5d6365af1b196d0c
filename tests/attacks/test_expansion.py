"""Small files of large tensors, and names without end: refused before the memory is taken, above a limit to raise."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from hostile_pickles import PROTOCOL, call, name, text, zipped
from torch import nn
from torch_checkpoints import assert_same

import converters
from mdjax import memory
from mdjax.errors import InputError
from mdjax.memory import SETTING

_MIB = 2**20


def views(count: int) -> dict[str, torch.Tensor]:
    """Tensors of one MiB each, all of them the same numbers."""
    stored = torch.zeros(_MIB // 4)
    return {f"{number}.weight": stored.view(512, 512) for number in range(count)}


def shifted(count: int) -> dict[str, torch.Tensor]:
    """The same, but that no two are the same view."""
    stored = torch.zeros(_MIB // 4 + count)
    return {f"{number}.weight": stored[number : number + _MIB // 4].view(512, 512) for number in range(count)}


def arrays(count: int) -> dict[str, object]:
    """One numpy array under many names, among as many tensors."""
    array = np.zeros((512, 512), np.float32)
    tensors = {f"{number}.bias": torch.ones(512) for number in range(count + 1)}
    return tensors | {f"{number}.weight": array for number in range(count)}


@pytest.fixture
def low(monkeypatch):
    """A limit that small files reach."""
    monkeypatch.setattr(memory, "_SLACK", _MIB)
    monkeypatch.setattr(memory, "_RATIO", 20)


@pytest.mark.parametrize("made", [views, shifted, arrays])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.usefixtures("low")
def test_many_views_of_one_storage_are_refused_above_a_limit_that_can_be_raised(tmp_path, monkeypatch, made, old):
    torch.save(made(60), tmp_path / "model.pt", _use_new_zipfile_serialization=not old)
    assert (tmp_path / "model.pt").stat().st_size < 2 * _MIB
    with pytest.raises(
        converters.RefusedError, match=rf"\d+ entries, many views of .* would take .* raise the limit: {SETTING}="
    ):
        converters.read_state_dict(tmp_path / "model.pt")
    monkeypatch.setenv(SETTING, "90 MiB")
    assert len(converters.read_state_dict(tmp_path / "model.pt")) >= 60


def test_layers_that_are_tied_as_often_as_networks_tie_them_are_read(tmp_path):
    network = nn.Sequential(*[nn.Linear(512, 512)] * 60)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    assert len(converters.read_state_dict(tmp_path / "model.pt")) == 120


def test_short_numbers_count_as_the_floats_that_they_become(tmp_path, low):
    torch.save({"w": torch.zeros(2 * _MIB, dtype=torch.float8_e4m3fn)}, tmp_path / "model.pt")
    assert len(converters.read_state_dict(tmp_path / "model.pt")["w"]) == 2 * _MIB
    stored = torch.zeros(_MIB + 8, dtype=torch.float8_e4m3fn)
    torch.save({f"w{k}": stored[k : _MIB + k] for k in range(8)}, tmp_path / "model.pt")
    with pytest.raises(converters.RefusedError, match="would take 32 MiB of memory from a file of 1 MiB"):
        converters.read_state_dict(tmp_path / "model.pt")


def test_a_setting_never_makes_less_of_other_files(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, "1KiB")
    torch.save(views(1), tmp_path / "model.pt")
    assert len(converters.read_state_dict(tmp_path / "model.pt")) == 1


def test_entries_that_overlap_are_told_as_such(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", b"x" * 500)
        archive.writestr("m/other", b"1")
        archive.filelist[1].file_size = archive.filelist[1].compress_size = 900
    (tmp_path / "model.pt").write_bytes(file.getvalue())
    with pytest.raises(converters.RefusedError, match="its entries overlap: they take 1400 bytes, but it has"):
        converters.read_state_dict(tmp_path / "model.pt")


def test_the_limit_is_a_size(tmp_path, monkeypatch):
    torch.save(views(1), tmp_path / "model.pt")
    for value in ("many", "-1", "0", "nan", "8 GiBs"):
        monkeypatch.setenv(SETTING, value)
        with pytest.raises(InputError, match=f"{SETTING} is '{value}'. Give a size"):
            converters.read_state_dict(tmp_path / "model.pt")


def safetensors(count: int, metadata: dict[str, str]) -> bytes:
    entry = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    header = json.dumps({"__metadata__": metadata, "first": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * count)


@pytest.mark.usefixtures("low")
def test_names_that_stand_for_others_are_refused_where_they_make_much_of_little(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(_MIB // 4, {f"other{number}": "first" for number in range(60)}))
    with pytest.raises(converters.RefusedError, match="its 61 entries, many views of"):
        converters.read_state_dict(path)


def test_a_chain_of_names_is_followed_only_so_far(tmp_path):
    path = tmp_path / "model.safetensors"
    chain = {f"a{number}": f"a{number + 1}" for number in range(100_000)} | {"a100000": "first"}
    path.write_bytes(safetensors(4, chain))
    found = converters.read_state_dict(path)
    assert "first" in found and len(found) <= 12


def rebuilt(key: str, count: int, offset: bytes, sizes: bytes, strides: bytes) -> bytes:
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text(key) + text("cpu")
    storage += b"J" + struct.pack("<i", count) + b"tQ"
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage,
        offset,
        b"(" + sizes + b"t",
        b"(" + strides + b"t",
        b"\x89N",
    )


_LARGE = b"\x8a\x08" + (2**62).to_bytes(8, "little")
TENSORS = {
    "beyond": (rebuilt("0", 4, b"K\x01", b"K\x04", b"K\x01"), "a tensor claims numbers beyond its storage"),
    "strides": (rebuilt("0", 4, b"K\x00", b"K\x02K\x03", b"K\x03K\x01"), "a tensor claims numbers beyond its storage"),
    "storage": (rebuilt("0", 400, b"K\x00", b"K\x04", b"K\x01"), "a storage is shorter than its tensors say"),
    "negative": (rebuilt("0", 4, b"K\x02", b"K\x02", b"J\xff\xff\xff\xff"), "a tensor's shape is none"),
    "offset": (rebuilt("0", 4, b"J\xff\xff\xff\xff", b"K\x02", b"K\x01"), "a tensor's shape is none"),
    "large": (rebuilt("0", 4, b"K\x00", _LARGE + _LARGE, b"K\x00K\x00"), "claims more numbers than there can be"),
    "empty": (rebuilt("0", 4, b"K\x00", _LARGE + b"K\x00", b"K\x00K\x00"), "claims more numbers than there can be"),
    "axes": (rebuilt("0", 4, b"K\x00", b"K\x01" * 65, b"K\x01" * 65), "a tensor's shape is none"),
    "text": (rebuilt("0", 4, b"K\x00", text("4"), b"K\x01"), "a tensor's shape is none"),
    "expanded": (rebuilt("0", 4, b"K\x00", b"J\x00\xca\x9a\x3b", b"K\x00"), "claims 1000000000 numbers, more than are"),
    "missing": (rebuilt("1", 4, b"K\x00", b"K\x04", b"K\x01"), "it is truncated, damaged"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_leave_their_storage_or_claim_too_much_are_refused(tmp_path, kind):
    made, reason = TENSORS[kind]
    pickled = PROTOCOL + b"}" + text("w") + made + b"s."
    content = [("m/data.pkl", pickled), ("m/data/0", np.arange(4, dtype=np.float32).tobytes())]
    (tmp_path / "model.pt").write_bytes(zipped(content))
    with pytest.raises(converters.RefusedError, match=reason):
        converters.read_state_dict(tmp_path / "model.pt")
    whole = PROTOCOL + b"}" + text("w") + rebuilt("0", 4, b"K\x00", b"K\x02K\x02", b"K\x01K\x02") + b"s."
    (tmp_path / "good.pt").write_bytes(zipped([("m/data.pkl", whole), content[1]]))
    assert_same(converters.read_state_dict(tmp_path / "good.pt"), {"w": np.arange(4, dtype=np.float32).reshape(2, 2).T})


def test_names_of_a_million_prefixes_are_refused_at_once(tmp_path):
    torch.save({"module." * 10**6 + "weight": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(converters.RefusedError, match=r"its entry module\..* has a name of 7000006 letters"):
        converters.read_state_dict(tmp_path / "model.pt")


def test_an_archive_in_an_archive_is_not_unpacked_twice(tmp_path):
    inner = zipped([("m/data.pkl", PROTOCOL + b"}" + b"N0" * 10**6 + b".")], zipfile.ZIP_DEFLATED)
    (tmp_path / "model.pt2").write_bytes(zipped([("serialized_state_dict.pt", inner)]))
    with pytest.raises(converters.RefusedError, match="bytes unpack to 200000"):
        converters.read_state_dict(tmp_path / "model.pt2")


def of_order(order: str, counts: tuple[int, ...]) -> bytes:
    """Tensors of the first numbers of one storage, which the file names once for each of them."""
    made = [text(f"w{k}") + rebuilt("0", k, b"K\x00", b"K\x02", b"K\x01") + b"s" for k in counts]
    pickled = PROTOCOL + b"}" + b"".join(made) + b"."
    numbers = np.arange(4, dtype=">f4" if order == "big" else "<f4").tobytes()
    return zipped([("m/data.pkl", pickled), ("m/data/0", numbers), ("m/byteorder", order.encode())])


def test_a_storage_of_the_other_byte_order_is_swapped_once(tmp_path):
    (tmp_path / "model.pt").write_bytes(of_order("big", (2, 3, 4)))
    found = converters.read_state_dict(tmp_path / "model.pt")
    assert_same(found, {name: np.arange(2, dtype=np.float32) for name in ("w2", "w3", "w4")})
    assert np.shares_memory(found["w2"], found["w4"])


@pytest.mark.parametrize("order", ["little\n", "Big", "", "middle"])
def test_a_byte_order_that_is_none_is_refused(tmp_path, order):
    (tmp_path / "model.pt").write_bytes(of_order(order, (2,)))
    with pytest.raises(converters.RefusedError, match="its byte order is neither little nor big"):
        converters.read_state_dict(tmp_path / "model.pt")


def test_a_storage_of_quantized_numbers_is_told_as_such(tmp_path):
    made = rebuilt("0", 4, b"K\x00", b"K\x02", b"K\x01").replace(b"FloatStorage", b"QInt8Storage")
    pickled = PROTOCOL + b"}" + text("w") + made + b"s."
    (tmp_path / "model.pt").write_bytes(zipped([("m/data.pkl", pickled), ("m/data/0", bytes(4))]))
    with pytest.raises(converters.RefusedError, match=r"it is quantized \(entry w\)"):
        converters.read_state_dict(tmp_path / "model.pt")
