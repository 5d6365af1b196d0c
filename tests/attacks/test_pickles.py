"""Hostile pickles, as checkpoints and as CIFAR-10 batches: refused one by one, the good file beside them taken."""

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
from hostile_pickles import HOSTILE, PROTOCOL, saved

import converters
from mdjax import pickles
from mdjax.pickled_values import VALUES
from mdjax.pickles import PickleError, load

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
from mdjax.zoo import data

report = converters.convert("files", "zoo", facts={"nonlinearity": "relu"}, show_progress=False)
found = {outcome.path.name: [outcome.status.value, outcome.reason] for outcome in report.outcomes}
for folder in sorted(Path("batches").iterdir()):
    try:
        data.load(folder)
    except InputError as error:
        found[folder.name] = ["refused", str(error)]
found["mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
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
        ("key", 1): {"in": {"side": ({1, 2}, frozenset({3}))}},
        "arrays": [array, array.T, array.astype(">f4"), np.zeros((0, 3)), np.array(2, np.int8)],
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
