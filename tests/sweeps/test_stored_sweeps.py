"""A zoo and a table at addresses of an object store: measured there by any process that is told the two addresses."""

import fsspec
import jax
import numpy as np
import pytest
from object_store_server import BUCKET, object_server

import mdjax
from mdjax.models import Architecture
from mdjax.sweeps.running import Runner
from mdjax.table import read_table
from mdjax.zoo.store import Zoo

SMALL = Architecture("mlp", 3, (8, 8, 1), 10)
ADDRESS = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    zoo = Zoo.create(tmp_path_factory.mktemp("zoos") / "zoo", data="digits")
    for seed, name in enumerate("ab"):
        rows = [{"model_id": f"{name}{i}", "configuration": name, "seed": i} for i in range(2)]
        zoo.append(name, SMALL, rows, *jax.vmap(SMALL.init)(jax.random.split(jax.random.key(seed), 2)))
    return zoo


def test_a_table_at_an_address_is_that_of_a_folder_and_is_resumed(local, monkeypatch):
    options = {"metrics": "losses,similarity", "show_progress": False}
    expected = mdjax.measure(local, **options)
    done, run = [], Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, unit: (done.append(unit.name), run(self, unit))[1])
    with object_server():
        store = fsspec.filesystem("s3", use_listings_cache=False)
        store.put(f"{local.path}/", f"{ADDRESS}/zoo/", recursive=True)
        mdjax.measure(f"{ADDRESS}/zoo", out=f"{ADDRESS}/table", workers=1, **options)
        assert not done  # here
        for _ in range(2):
            table = mdjax.measure(f"{ADDRESS}/zoo", out=f"{ADDRESS}/table", **options)
        assert not done
        for name in ("models", "pairs"):
            frame, other = getattr(read_table(f"{ADDRESS}/table"), name), getattr(expected, name)
            for column in ("train_loss", "test_loss") if name == "models" else ("agreement", "js_divergence"):
                np.testing.assert_allclose(frame[column], other[column], rtol=1e-5, atol=1e-7)
                np.testing.assert_allclose(frame[column], getattr(table, name)[column])
        assert not store.glob(f"{ADDRESS}/table/run/**/*")
