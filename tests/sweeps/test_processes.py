"""Sweeps in several processes: workers that die alone, hosts of one job, the same table as of one process."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from killed_workers import run_in_children

import mdjax
from mdjax.cli import main
from mdjax.errors import InputError
from mdjax.statuses import StatusCode
from mdjax.sweeps import workers, working
from mdjax.table import read_table
from mdjax.zoo.grids import Grid

OPTIONS = {"preset": "fast", "metrics": "losses,hessian,cka", "show_progress": False}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    grid = Grid(width=(2, 3), batch_size=(64,), epochs=1, seeds=3)
    return mdjax.train(grid, tmp_path_factory.mktemp("zoo") / "zoo", show_progress=False)


@pytest.fixture(scope="module")
def expected(zoo):
    return mdjax.measure(zoo, **OPTIONS)


def assert_equal(table, expected, rtol=1e-5, without=()):
    """Row for row; but for seconds, and rows of models that are left out."""
    for name in ("models", "pairs"):
        frame, other = getattr(table, name), getattr(expected, name)
        keys = ["model_id"] if name == "models" else ["model_a", "model_b"]
        assert frame[keys].to_numpy().tolist() == other[keys].to_numpy().tolist()
        kept = ~frame[keys].isin(without).any(axis=1)
        for column in other:
            if column.endswith("_seconds"):
                continue
            found, wanted = frame.loc[kept, column], other.loc[kept, column]
            if len(wanted) and isinstance(wanted.iloc[0], list | np.ndarray):
                found, wanted = (np.concatenate([*column]) for column in (found, wanted))
            if wanted.dtype.kind == "f":
                # Residuals and standard errors are known to the rounding of what they are errors of.
                is_error = "_residual" in column or column.endswith("_se")
                scale = max(1.0, other["hessian_eigenvalue"].max()) if is_error and name == "models" else 1.0
                np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-6 * scale, err_msg=column)
            else:
                assert found.map(str).tolist() == wanted.map(str).tolist(), column


def killed_once(folder: Path, done: list[int]):
    """Kills the worker that has claimed something, once."""

    def glance(seconds):
        time.sleep(seconds)
        claimed = list((folder / "run" / "claims").glob("*.0")) if (folder / "run" / "claims").is_dir() else []
        for claim in claimed:
            if not done:
                done.append(int(claim.read_text().split("-")[1]))
                os.kill(done[0], signal.SIGKILL)

    return glance


def test_a_worker_that_is_killed_costs_nothing(zoo, expected, tmp_path, monkeypatch):
    done: list[int] = []
    monkeypatch.setattr(workers, "_pause", killed_once(tmp_path / "table", done))
    table = mdjax.measure(zoo, out=tmp_path / "table", workers=2, **OPTIONS)
    assert done and done[0] != os.getpid()
    assert_equal(table, expected)
    left = [path for path in (tmp_path / "table" / "run").rglob("*") if path.is_file()]
    assert not left


FATAL = """
import ctypes, sys
import mdjax.sweeps.running as running
import mdjax.sweeps.working as working
working.MOST_DEATHS = 1
run = running.Runner.run
def fatal(self, unit):
    if unit.metric.name == "losses" and any(unit.cell.models[i][0] == "{model}" for m in unit.members for i in m):
        ctypes.string_at(0)
    return run(self, unit)
running.Runner.run = fatal
"""


def test_a_model_that_ends_every_process_is_a_row_with_a_status(zoo, expected, tmp_path, monkeypatch, capsys):
    """A segmentation fault, each time that its losses are measured."""
    model = expected.models["model_id"][1]
    code = "import sys\nif 'mdjax.sweeps.worker' in sys.orig_argv:" + FATAL.format(model=model).replace("\n", "\n    ")
    run_in_children(code, tmp_path, monkeypatch)
    monkeypatch.setattr(working, "MOST_DEATHS", 1)  # `tests/sweeps/test_working.py` has three
    table = mdjax.measure(zoo, out=tmp_path / "table", workers=1, **OPTIONS)
    row = table.models.set_index("model_id").loc[model]
    assert row["status_code"] == StatusCode.DIED
    assert row["status"] == "its process ended 1 times while measuring it: SIGSEGV"
    assert np.isnan(row["train_loss"]) and np.isfinite(row["hessian_trace"])
    assert_equal(table, expected, without=[model])
    said = " ".join(capsys.readouterr().err.split())
    assert "losses ended its process for 1 of its models" in said
    monkeypatch.delenv("PYTHONPATH")
    assert_equal(mdjax.measure(zoo, out=tmp_path / "table", **OPTIONS), expected)


def test_workers_that_never_begin_are_told(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_COMMAND", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])
    with pytest.raises(InputError, match=r"3 workers in a row ended .* exit status 1: no such thing. Measure in this"):
        mdjax.measure(zoo, out=tmp_path / "table", workers=1, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers is -1. Give a number from 0 to 256, or auto"),
        ({"workers": True}, "workers is True"),
        ({"workers": "many"}, "workers is 'many'"),
        ({"workers": 1, "out": None}, "workers were asked for with no place for the table. Give out="),
        ({"workers": 1, "data": tuple(np.zeros((2, 2)) for _ in range(4))}, "need data by name or path"),
        ({"distributed": "here"}, r"Cannot join 'here'. Give auto, or ADDRESS:PORT,COUNT,NUMBER like"),
        ({"distributed": "auto", "out": None}, "share their work in the table. Name its place"),
        ({"devices": "3x"}, "Cannot use devices '3x'"),
        ({"devices": "2", "mesh": object()}, "Both mesh and devices were given"),
        ({"distributed": "auto", "workers": 2}, "workers is 2, but the processes of a job measure themselves"),
        ({"distributed": "auto"}, "Cannot join the other processes of the job: .* Start this command on every host"),
    ],
)
def test_what_cannot_be_shared_is_told(zoo, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        mdjax.measure(zoo, **{"out": tmp_path / "table", **OPTIONS, **options})


def test_a_list_of_models_is_measured_here(zoo):
    params, state = zoo.read_group(zoo.groups[0])
    given = {"model": lambda p, s, x: x, "data": "digits", "out": "t"}
    with pytest.raises(InputError, match="workers are other processes and need a zoo by name or path"):
        mdjax.measure([(params, state)], workers=1, **given)
    with pytest.raises(InputError, match="Processes of a job share the models of a zoo"):
        mdjax.measure([(params, state)], distributed="auto", **given)


def test_the_command_line_takes_workers(zoo, expected, tmp_path, capsys):
    metrics = ["--preset", "fast", "--metrics", OPTIONS["metrics"]]
    main(["measure", str(zoo.path), "--out", str(tmp_path / "table"), "--workers", "1", *metrics])
    assert "6 models (0 not ok)" in capsys.readouterr().out
    assert_equal(read_table(tmp_path / "table"), expected)
    with pytest.raises(SystemExit):
        main(["measure", str(zoo.path), "--out", str(tmp_path / "other"), "--workers", "x", *metrics])
    assert "workers is 'x'" in capsys.readouterr().err


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_hosts_with_four_devices_each_make_the_table_of_one_process(zoo, expected, tmp_path):
    """Each with its own part of the units, models over two devices and examples over two."""
    out, port = tmp_path / "table", free_port()
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-m", "mdjax", "measure", str(zoo.path), "--out", str(out), "--devices", "2x2"]
    command += ["--preset", "fast", "--metrics", OPTIONS["metrics"]]
    hosts = [
        subprocess.Popen(
            [*command, "--distributed", f"127.0.0.1:{port},2,{number}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    told = [host.communicate(timeout=300)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], told
    assert all("6 models (0 not ok)" in text for text in told)
    assert_equal(read_table(out), expected)


@pytest.mark.slow
def test_a_host_reads_weights_without_waiting_for_the_others_to_read_some(zoo):
    """Orbax would have all processes of a job meet at every checkpoint, and parts of a sweep are not of equal sizes."""
    code = (
        "import sys; from mdjax.engine.hosts import join; from mdjax.zoo.store import Zoo\n"
        "host = join(sys.argv[1]); zoo = Zoo(sys.argv[2])\n"
        "[zoo.read_group(group) for group in zoo.groups] if host.number == 1 else None\n"
        "print('done')"
    )
    port = free_port()
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"127.0.0.1:{port},2,{number}", str(zoo.path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        assert [host.communicate(timeout=60)[0] for host in hosts] == ["done\n"] * 2
    finally:
        for host in hosts:
            host.kill()


def test_workers_end_with_their_parent():
    worker = subprocess.Popen(workers._COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert worker.stdin is not None
    worker.stdin.write(b'{"zoo": "/nowhere/zoo", "table": "/nowhere/table"}\n')
    worker.stdin.close()  # as the system does when the parent is killed
    assert worker.wait(60) in (0, 2)  # unless it found sooner that there is no such zoo
