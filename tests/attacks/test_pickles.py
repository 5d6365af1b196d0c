"""Hostile pickles, as checkpoints and as CIFAR-10 batches: refused one by one, the good file beside them taken."""

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_pickles import HOSTILE, PROTOCOL, saved, text

import converters
from mdjax import pickles
from mdjax.pickled_values import VALUES
from mdjax.pickles import Account, ForeignError, PickleError, load

_OLD = ("pointer", "key-deep", "system")
"""Those that are also put into a file of before torch 1.6."""

_BEGIN = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
"""What files of before torch 1.6 begin with."""

_RUN = """
import json, resource, sys
from pathlib import Path

resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
import converters
from mdjax.errors import InputError
from mdjax.memory import process_memory
from mdjax.zoo import data

report = converters.convert("files", "zoo", facts={"nonlinearity": "relu"}, show_progress=False)
found = {outcome.path.name: [outcome.status.value, outcome.reason] for outcome in report.outcomes}
for folder in sorted(Path("batches").iterdir()):
    try:
        data.load(folder)
    except InputError as error:
        found[folder.name] = ["refused", str(error)]
found["mebibytes"] = process_memory().most // 2**20
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What became of each file, in a process of its own that the former code would not have survived."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "files").mkdir()
    for label, (content, _) in HOSTILE.items():
        (folder / "files" / f"{label}.pth").write_bytes(saved(content))
        if label in _OLD:
            (folder / "files" / f"{label}-old.pth").write_bytes(_BEGIN + content + b"\x80\x02].")
        batch = folder / "batches" / label / "data_batch_1"
        batch.parent.mkdir(parents=True)
        batch.write_bytes(content)
    weights = {
        "0.weight": torch.ones(3, 4),
        "0.bias": torch.ones(3),
        "2.weight": torch.ones(2, 3),
        "2.bias": torch.ones(2),
    }
    torch.save(weights, folder / "files" / "zz-good.pth")
    environment = {**os.environ, "PYTHONPATH": str(Path(converters.__file__).parents[1])}
    run = [sys.executable, "-c", _RUN]
    ended = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert sorted(path.name for path in folder.iterdir()) == ["batches", "files", "zoo"]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile_pickles_are_refused_with_their_reason(found, label):
    expected = HOSTILE[label][1]
    for file in (f"{label}.pth", *([f"{label}-old.pth"] if label in _OLD else [])):
        code, reason = found[file]
        assert code == "refused" and expected in reason and "\n" not in reason
    code, reason = found[label]
    assert code == "refused" and "data_batch_1" in reason and "\n" not in reason


def test_the_good_file_beside_them_is_converted_in_bounded_memory(found):
    assert found["zz-good.pth"][0] == "converted"
    assert found["mebibytes"] < 1500


def test_a_pickle_takes_no_more_steps_than_weights_could(monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_STEPS", 1000)
    with pytest.raises(PickleError, match="takes more than 1000 steps"):
        load(io.BytesIO(PROTOCOL + b"N0" * 600 + b"N."), 0, VALUES.get)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read_as_pickle_reads_them(protocol):
    array = np.arange(6.0).reshape(2, 3)
    content = {
        "numbers": [1, -2, 3.5, True, None, 2**70, 1 + 2j],
        "texts": ("a", "ü", b"\x00\xff", bytearray(b"a"), ""),
        ("key", 1, ((1, 2), 3)): {"in": {"side": ({1, 2}, frozenset({3}))}},
        "arrays": [
            array,
            array.T,
            np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
            array.astype(">f4"),
            np.zeros((0, 3)),
            np.array(2, np.int8),
        ],
        "scalars": [np.float64(1.5), np.int16(-3), np.bool_(True), np.complex64(1j)],
    }
    content["again"] = content["arrays"]
    if protocol < 2:
        content["texts"] = content["texts"][:2]
    found = load(io.BytesIO(pickle.dumps(content, protocol)), 10**6, VALUES.get)
    assert found["again"] is found["arrays"]
    for name in ("arrays", "scalars"):
        for value, expected in zip(found.pop(name), content[name], strict=True):
            assert (value.dtype, type(value)) == (expected.dtype, type(expected))
            np.testing.assert_array_equal(value, expected, strict=True)
    assert {name: found[name] for name in found if name != "again"} == {
        name: value for name, value in content.items() if name not in ("arrays", "scalars", "again")
    }


@pytest.mark.parametrize(
    "arguments",
    [["Q"], [("C",)], ["K", (0, 0)], ["K", (0, 2)], ["K", (0,)], ["K", [1, 0]], ["K", (True, 0)], [b"F", 3]],
)
def test_arrays_of_no_known_order_are_refused(arguments):
    fine = isinstance(arguments[0], bytes)  # axes count with "K" alone
    made = VALUES["numpy._core.numeric._frombuffer"].function
    with contextlib.nullcontext() if fine else pytest.raises(PickleError, match="no known order|change places"):
        made(Account(100), bytes(6), np.dtype("i1"), (2, 3), *arguments)


def test_many_tuples_are_keys_unless_their_hashes_are_alike():
    content = {("a", str(number)): number for number in range(6000)} | {((1, 2), 3): 4}
    assert load(io.BytesIO(pickle.dumps(content, 2)), 10**6, VALUES.get) == content
    alike = {tuple(-1 - (number >> place & 1) for place in range(6)): None for number in range(64)}
    assert len({hash(key) for key in alike}) == 1
    with pytest.raises(PickleError, match="more than 32 keys of one hash"):
        load(io.BytesIO(pickle.dumps(alike, 2)), 10**6, VALUES.get)


def test_a_long_text_is_no_key_again_and_again():
    pickled = b"}" + text("a" * 10**6) + b"q\x00Ns" + text("a" * 10**6) + b"q\x010" + b"h\x01Ns" * 10**4 + b"."
    with pytest.raises(PickleError, match="takes more than"):
        load(io.BytesIO(PROTOCOL + pickled), 10**6, VALUES.get)


def test_what_is_refused_is_loaded_where_it_is_trusted(tmp_path):
    many = {"weights": {"w": torch.ones(2)}, "size": complex(1, 2), "keys": {(((((1,),),),),): 2}}
    torch.save(many, tmp_path / "model.pth")
    with pytest.raises(converters.RefusedError, match=r"has a tuple in a key.*; nothing was run\. Pass --trust"):
        converters.read_state_dict(tmp_path / "model.pth")
    assert list(converters.read_state_dict(tmp_path / "model.pth", trust=True)) == ["w"]


def test_of_many_foreign_names_few_are_kept():
    names = b"".join(f"cmodule\nname{number}\n0".encode() for number in range(3000))
    with pytest.raises(ForeignError, match="it refers to module.name0, .* and 996 more"):
        load(io.BytesIO(PROTOCOL + names + b"N."), 0, VALUES.get)
