"""A sweep on a Ray cluster: nodes and workers come and go, and the table is that of one undisturbed process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mdjax.errors import InputError
from mdjax.stores import LocalStore
from mdjax.sweeps import ray_worker
from mdjax.sweeps.claims import Claims
from mdjax.sweeps.elastic import sweep
from mdjax.sweeps.gangs import Gang, Member, Needs, Slice, hire, num_ready, parse_gang
from mdjax.sweeps.local import measure
from mdjax.sweeps.ray_crew import RayCrew
from mdjax.sweeps.ray_worker import Place, RayWorker
from mdjax.sweeps.worker import Assignment
from mdjax.table import read_table
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

GRID = Grid(family="mlp", width=(2, 3, 4, 5), batch_size=64, data_share=(0.5, 1.0), epochs=1, seeds=2)
WHAT = {"preset": "fast", "metrics": "losses,hessian"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return train(GRID, tmp_path_factory.mktemp("zoo") / "zoo").path


@pytest.fixture(scope="module")
def cluster():
    """A cluster on the loopback interface: a head without a core, and two nodes of one each."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets have to be short
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_TMPDIR", folder)
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patched.setenv("RAY_memory_monitor_refresh_ms", "0")  # which ends workers for what others take
        from ray._private import ray_constants
        from ray.cluster_utils import Cluster

        patched.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(2):
                started.add_node(num_cpus=1)
            yield started
        finally:
            started.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def workers_of(table):
    """The numbers of the processes that give signs of life in a table."""
    with contextlib.suppress(FileNotFoundError):
        names = [path.name for path in (table / "run" / "workers").iterdir()]
        return {int(name.split("-")[1]) for name in names if not name.startswith(".")} - {os.getpid()}
    return set()


def shards_of(table):
    return list((table / "shards").glob("[!.]*.parquet"))


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_nodes_and_workers_come_and_go_and_nothing_is_lost_or_doubled(zoo, cluster, tmp_path):
    table = tmp_path / "table"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sweep, zoo, out=table, address=cluster.address, show_progress=False, **WHAT)
        wait(lambda: len(workers_of(table)) == 2 or running.done())
        first, others = workers_of(table), set()
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        for process in filter(is_alive, first):  # the one on the other node, while there is work left
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        cluster.add_node(num_cpus=1)
        wait(lambda: others.update(workers_of(table) - first) or len(others) == 2 or running.done())
        found = running.result(90)
    assert len(first) == 2 and others
    assert not workers_of(table)
    assert (found.models["status"] == "ok").all()
    assert found.models["model_id"].is_unique
    expected = measure(zoo, show_progress=False, **WHAT)
    assert found.models["model_id"].tolist() == expected.models["model_id"].tolist()
    columns = ["train_loss", "train_error", "test_loss", "test_error", "hessian_eigenvalue", "hessian_trace"]
    np.testing.assert_allclose(found.models[columns], expected.models[columns], rtol=1e-5, atol=1e-5)
    assert len(found.configurations) == len(expected.configurations) == 8


@pytest.mark.slow
def test_a_gang_begins_and_ends_together_and_another_takes_its_place(zoo, cluster, tmp_path):
    table = tmp_path / "table"
    first, second = set(), set()

    def has_two(gang, others=frozenset()):
        gang |= workers_of(table) - others
        return len(gang) == 2

    with ThreadPoolExecutor(1) as pool:
        options = {"address": cluster.address, "gang": 2, "workers": 1, "show_progress": False}
        running = pool.submit(sweep, zoo, out=table, **options, **WHAT)  # takes long enough to be killed in
        wait(lambda: has_two(first) or running.done())
        os.kill(max(first), signal.SIGKILL)
        wait(lambda: not any(map(is_alive, first)) or running.done())
        wait(lambda: has_two(second, first) or running.done())
        found = running.result(90)
    assert len(first) == len(second) == 2
    assert (found.models["status"] == "ok").all() and found.models["model_id"].is_unique
    expected = measure(zoo, show_progress=False, **WHAT)
    columns = ["train_loss", "train_error", "test_loss", "test_error", "hessian_eigenvalue", "hessian_trace"]
    np.testing.assert_allclose(found.models[columns], expected.models[columns], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_command_ends_with_its_workers_and_goes_on(zoo, cluster, tmp_path):
    table = tmp_path / "table"
    command = [sys.executable, "-m", "mdjax", "sweep", str(zoo), "--out", str(table), "--address", cluster.address]
    command += ["--preset", "fast", "--metrics", "losses,hessian", "--workers", "1"]  # enough to be interrupted in
    command += ["--examples", "1000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait(lambda: shards_of(table))
        hired = workers_of(table) - {process.pid}
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("mdjax: interrupted; give the same command again"), errors
    assert len(hired) == 1
    wait(lambda: not any(map(is_alive, hired)), 20)
    assert not workers_of(table) & hired
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{table}: 16 models (0 not ok), 0 pairs, 8 configurations\n"
    assert (read_table(table).models["num_examples"] == 1000).all()


@pytest.mark.slow
def test_a_gang_takes_a_whole_slice_of_tpus_and_gives_it_back(cluster, monkeypatch):
    """Nodes that say they are the hosts of a slice; what runs on them asks for no TPU."""
    import ray

    monkeypatch.setenv("TPU_NAME", "one")
    slice_of = {"ray.io/tpu-slice-name": "one", "ray.io/tpu-pod-type": "v4-16", "ray.io/tpu-topology": "2x2x2"}
    needs = Needs({"CPU": 1, "TPU": 4}, 2, Slice("v4", "2x2x2"))
    assert parse_gang("v4-16") == parse_gang("tpu:v4-2x2x2") == (needs.num_processes, needs.slice, 4)
    assert parse_gang("v5e-16") == (4, Slice("v5litepod", "4x4"), 4)
    assert parse_gang("v5e-8") == (1, Slice("v5litepod", "2x4"), 8)
    nodes = []
    try:
        for number in range(2):
            head = {"TPU-v4-16-head": 1} if number == 0 else {}
            labels = slice_of | {"ray.io/tpu-worker-id": str(number)}
            nodes.append(cluster.add_node(num_cpus=1, resources={"TPU": 4} | head, labels=labels))
        ray.init(address=cluster.address, log_to_driver=False, include_dashboard=False)
        wait(lambda: num_ready(ray, needs) == 1)
        gang = hire(ray, needs, lambda actor: actor.begin.remote({}, "/"))
        assert gang is not None
        places = ray.get([member.answer for member in gang.members], timeout=60)
        ids = {node.node_id for node in nodes}
        assert {place.node for place in places} == ids
        wait(lambda: num_ready(ray, needs) == 0)
        for member, place, number in zip(gang.members, places, (1, 0), strict=True):
            member.place = place._replace(number=number)
        joined = gang.joined()
        assert [member.place.number for member in gang.members] == [0, 1]
        assert joined == [f"{places[1].address}:{places[1].port},2,{number}" for number in range(2)]
        for member in gang.members:
            ray.kill(member.actor)
        gang.release()
        wait(lambda: num_ready(ray, needs) == 1)
    finally:
        ray.shutdown()
        for node in nodes:
            cluster.remove_node(node)


def test_without_ray_it_is_said_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    for options in ({}, {"gang": "v5e-16"}):
        with pytest.raises(InputError, match=r"Install it: pip install 'mdjax\[ray\]'"):
            sweep("zoo", out=tmp_path / "table", address="local", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "127.0.0.1:1"}, "Cannot reach a Ray cluster at 127.0.0.1:1: Connection refused"),
        ({"address": "ray://127.0.0.1:1"}, "Cannot reach a Ray cluster at ray://127.0.0.1:1: Connection refused"),
        ({"workers": 0}, "workers is 0. Give a whole number of at least 1"),
        ({"workers": "many"}, "workers is 'many'"),
        ({"cpus_per_worker": 0}, "cpus_per_worker is 0"),
        ({"accelerator": "npu"}, "Unknown accelerator 'npu'. Choose from auto, cpu, gpu, tpu"),
        ({"devices": "0"}, "Cannot use devices '0'"),
        ({"gang": 0}, "Cannot make a gang of '0'. Give a number of processes up to 4096, or a TPU slice like v5e-16"),
        ({"gang": "v5e-12"}, "Cannot make a gang of 'v5e-12'"),
        ({"gang": "v5e-16", "accelerator": "gpu"}, "takes all 4 chips of each host, not 4 of 'gpu'"),
        ({"gang": "v5e-16", "devices": "2"}, "takes all 4 chips of each host, not 2 of 'auto'"),
        ({"distributed": "auto"}, "distributed was given for a sweep, whose processes Ray starts"),
    ],
)
def test_wrong_use_is_refused_in_one_sentence(options, message, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=message):
        sweep("zoo", out=tmp_path / "table", **options)
    assert not (tmp_path / "table").exists()


def test_a_worker_that_does_not_see_the_same_files_says_so_and_writes_nothing(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_worker, "_PATIENCE", 0.0)
    table = tmp_path / "table"
    told = Assignment(str(zoo), str(table), None, **WHAT)
    claims = Claims(LocalStore(table))
    assert "does not see the table" in RayWorker().work(told, claims.worker, "cpu")
    assert not table.exists()
    with claims.beating():
        assert "does not see the zoo" in RayWorker().work(told._replace(zoo="/none/zoo"), claims.worker, "cpu")
        assert "JAX sees none there" in RayWorker().work(told, claims.worker, "gpu")
        other = told._replace(kinds=("losses-0123456789ab",))
        assert "not what it was told" in RayWorker().work(other, claims.worker, "cpu")
    assert not (table / "shards").exists()


def test_a_command_whose_own_node_has_ended_says_so(tmp_path):
    """Ray would let it wait for ever."""

    class Ray:
        @staticmethod
        def get_runtime_context():
            return Ray

        @staticmethod
        def get_node_id():
            return "own"

        @staticmethod
        def nodes():
            return [{"NodeID": "own", "Alive": False}, {"NodeID": "other", "Alive": True}]

    crew = RayCrew(Assignment("zoo", "table"), None, ray=Ray, needs=Needs({"CPU": 1}), count=None)
    with pytest.raises(InputError, match="The Ray node that this command runs on has ended"):
        crew.tend()


class _DiedError(Exception):
    """As Ray tells it."""


@pytest.mark.parametrize(
    ("answers", "noted"),
    [
        ({"a": _DiedError("killed"), "b": _DiedError("its coordinator went")}, ["a", "b"]),
        ({"a": None, "b": _DiedError("killed")}, ["b"]),
        ({"a": _DiedError("its node went", "gone"), "b": None}, []),
    ],
)
def test_whoever_of_a_gang_died_by_itself_is_noted_and_all_go(answers, noted):
    """One may die of the other's death, and be heard first: the one at fault must count in any order."""
    told, killed, released = [], [], []
    claims = SimpleNamespace(
        tell_death=lambda process, how: told.append(process) or ["a claim"], tell_gone=lambda process: None
    )

    def get(answer):
        raise answers[answer]

    ray = SimpleNamespace(
        exceptions=SimpleNamespace(RayError=_DiedError, RayActorError=_DiedError, ActorDiedError=_DiedError),
        wait=lambda asked, **_: ([one for one in asked if answers[one] is not None], []),
        get=get,
        kill=killed.append,
        nodes=lambda: [{"NodeID": name, "Alive": len(answers[name].args) < 2} for name in answers if answers[name]],
    )
    crew = RayCrew(
        Assignment("zoo", "table"), SimpleNamespace(claims=claims), ray=ray, needs=Needs({"CPU": 1}, 2), count=0
    )
    crew._node, crew._due = None, float("inf")
    members = [Member(name, name, Place(name, name, "", ())) for name in answers]
    crew._gangs.append(Gang(members, lambda: released.append(True)))
    crew.tend()
    assert (told, killed, released, crew.num_alive) == (noted, ["a", "b"], [True], 0)
