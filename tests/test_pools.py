"""Pools of processes that die: what is answered, tried again, given up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mdjax.errors import InputError
from mdjax.handovers import read_arrays, write_arrays
from mdjax.pools import Answer, Pool

CODE = """
import os, signal, sys, time
from mdjax.errors import InputError
from mdjax.pools import serve

def begin(setup):
    def work(what, advance):
        print("a line that is no answer")
        advance(0.5)
        if what.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if what.get("raise"):
            raise InputError("Nothing can be written.")
        time.sleep(what.get("seconds", 0))
        return {"square": what["number"] ** 2, "setup": setup["name"], "process": os.getpid()}
    return work

serve(begin)
"""
COMMAND = [sys.executable, "-c", CODE]


def pool(**options):
    return Pool(COMMAND, {"name": "mine"}, 2, **options)


def test_what_kills_three_processes_is_given_up_and_all_else_is_done(capfd):
    """Also what a process that dies had at hand beside it."""
    moved = []
    with pool(depth=3, advance=moved.append) as processes:
        tasks = [processes.submit({"number": number, "kill": number == 2}) for number in range(8)]
        answers = [processes.result(task) for task in tasks]
    assert answers[2] == Answer({}, "its process ended 3 times: SIGKILL, as where memory runs out")
    kept = [answer.content for number, answer in enumerate(answers) if number != 2]
    assert [content["square"] for content in kept] == [0, 1, 9, 16, 25, 36, 49]
    assert {content["setup"] for content in kept} == {"mine"}
    assert sum(moved) == pytest.approx(7 * 0.5)
    assert "a line that is no answer" in capfd.readouterr().err


def test_a_process_that_is_killed_costs_nothing():
    with pool() as processes:
        tasks = [processes.submit({"number": number, "seconds": 0.1}) for number in range(4)]
        first = processes.result(tasks[0])
        os.kill(first.content["process"], signal.SIGKILL)
        assert [processes.result(task).content["square"] for task in tasks[1:]] == [1, 4, 9]


def test_what_a_process_says_is_wrong_is_raised():
    with pool() as processes, pytest.raises(InputError, match="Nothing can be written"):
        processes.result(processes.submit({"number": 1, "raise": True}))


def test_urgent_tasks_go_first():
    with Pool(COMMAND, {"name": ""}, 1) as processes:
        tasks = [processes.submit({"number": number, "seconds": 0.02}) for number in range(3)]
        urgent = processes.submit({"number": 9}, first=True)
        order = [processes.next()[0] for _ in range(4)]
    assert order.index(urgent) <= 1 and sorted(order) == sorted([*tasks, urgent])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_who_started_them(tmp_path, number):
    script = (
        f"from mdjax.pools import Pool\nfrom mdjax.processes import run\n"
        f"def command():\n"
        f"    with Pool({COMMAND!r}, {{'name': ''}}, 2) as pool:\n"
        f"        print(*[pool.result(pool.submit({{'number': 1}})).content['process']], flush=True)\n"
        f"        pool.result(pool.submit({{'number': 1, 'seconds': 600}}))\n"
        f"run('test', command, own_process=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(number)
    assert parent.wait(30) in (-number, 128 + number)
    end = time.monotonic() + 30
    while is_running(worker):
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_arrays_are_handed_over_bit_for_bit(tmp_path):
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.zeros((0, 4)),
        np.array(3, np.int32),
        np.array([np.nan, -0.0]),
    ]
    file = tmp_path / "arrays"
    places = write_arrays(file, arrays)
    found = read_arrays(file, places)
    file.unlink()
    for one, other in zip(found, arrays, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("place", [["|O", [1], 0], ["<f4", [9], 0], ["<f4", [1], 64], ["<f4", [-1], 0]])
def test_places_outside_the_file_are_refused(tmp_path, place):
    write_arrays(tmp_path / "arrays", [np.ones(4, np.float32)])
    with pytest.raises(ValueError):
        read_arrays(tmp_path / "arrays", [place])
