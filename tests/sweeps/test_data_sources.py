"""A zoo measured on data as users have them: a folder on the command line, data sets in Python."""

import jax
import numpy as np
import pytest
from data_sources import ARRAYS, X, Y, write_idx

import mdjax
from mdjax.cli import main
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.table import read_table
from mdjax.zoo.store import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    """One network, trained on nothing."""
    architecture = Architecture("mlp", 2, (6, 5, 1), 4, 0)
    params, state = jax.tree.map(lambda leaf: leaf[None], architecture.init(jax.random.key(0)))
    made = Zoo.create(tmp_path_factory.mktemp("sources") / "zoo", data="own")
    made.append("g", architecture, [{"model_id": "a", "configuration": "c", "seed": 0}], params, state)
    return made


@pytest.fixture(scope="module")
def loss(zoo) -> float:
    """The training loss on the arrays themselves."""
    return mdjax.measure(zoo, data=ARRAYS, metrics="losses", show_progress=False).models["train_loss"][0]


def test_the_command_measures_on_a_folder_of_idx_files(zoo, loss, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    write_idx(folder, packed=True)
    out = tmp_path / "table"
    main(["measure", str(zoo.path), "--out", str(out), "--data", str(folder), "--metrics", "losses"])
    assert read_table(out).models["train_loss"][0] == loss
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="has no file t10k-labels-idx1-ubyte"):
        mdjax.measure(zoo, data=folder, metrics="losses")


def test_data_sets_are_measured_on_from_python(zoo, loss):
    torch = pytest.importorskip("torch")

    class Images(torch.utils.data.Dataset):
        def __init__(self, part):
            self.x, self.y = torch.from_numpy(X[part]), Y[part]

        def __len__(self):
            return len(self.y)

        def __getitem__(self, number):
            return self.x[number], int(self.y[number])

    train, test = Images(slice(0, 20)), torch.utils.data.DataLoader(Images(slice(20, 28)), batch_size=3)
    found = mdjax.measure(zoo, data=(train, test), metrics="losses", show_progress=False)
    assert found.models["train_loss"][0] == loss
    # A generator gives its examples once.
    once = (({"x": x, "y": y} for x, y in zip(ARRAYS[f"x_{half}"], ARRAYS[f"y_{half}"])) for half in ("train", "test"))
    table = mdjax.measure(zoo, data=tuple(once), layout="nhwc", metrics="losses", show_progress=False)
    assert table.models["train_loss"][0] == loss and np.isfinite(loss)
