"""Who is at work on what: one at a time, taken over from who is gone, whatever the clocks say."""

import os
import subprocess
import sys
import threading

import pandas as pd
import pytest
from sweep_units import frame, unit

from mdjax.statuses import Status, StatusCode
from mdjax.stores import LocalStore
from mdjax.sweeps import claims, signs
from mdjax.sweeps.claims import Claims
from mdjax.sweeps.signs import process_name

ELSEWHERE = "ffffffffffff-7-1-abc"
"""A worker of another machine."""


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "table")


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(signs.time, "monotonic", lambda: now[0])
    return now


def looking(store, **options):
    """A worker that is at work, and knows what the others do."""
    claims = Claims(store, **options)
    if not store.read(f"run/workers/{claims.worker}"):
        store.write(f"run/workers/{claims.worker}", b"0")
    claims.refresh()
    return claims


def test_a_unit_is_taken_by_one_of_many(store):
    workers = [looking(store) for _ in range(8)]
    barrier, taken = threading.Barrier(8), []

    def take(claims):
        barrier.wait()
        taken.append(claims.take("u"))

    threads = [threading.Thread(target=take, args=(claims,)) for claims in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1
    assert looking(store).is_busy("u")


def test_what_is_dropped_can_be_taken(store):
    first, second = looking(store), looking(store)
    assert first.take("u") and not second.take("u")
    first.drop("u")
    second.refresh()
    assert second.take("u")


def test_a_process_of_this_machine_that_has_ended_is_gone_at_once(store):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(process.pid)
    other = looking(store, worker=f"{name}-x")
    assert other.take("u")
    assert looking(store).is_busy("u")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its parent has not asked for it: a zombie
    assert not looking(store).is_busy("u")
    process.communicate()
    assert not looking(store).is_busy("u")
    own = looking(store)
    assert own.take("u") and own.tries("u").lapses == 1


def test_a_number_that_another_process_has_by_now_is_not_that_process(store):
    machine, process, _ = process_name(os.getpid()).split("-")
    assert looking(store, worker=f"{machine}-{process}-1-x").take("u")
    assert not looking(store).is_busy("u")


def test_a_worker_of_another_machine_is_gone_when_it_gives_no_sign_for_a_lease(store, clock):
    other = looking(store, worker=ELSEWHERE)
    assert other.take("u")
    own = looking(store, lease=60.0)
    assert own.is_busy("u") and not own.take("u")

    def later(seconds):
        clock[0] += seconds
        own.refresh()
        return own

    store.write(f"run/workers/{ELSEWHERE}", b"1")  # by a clock that may be years off
    assert later(59).is_busy("u") and later(59).is_busy("u")
    assert not later(2).is_busy("u") and own.take("u")
    assert looking(store, worker=ELSEWHERE).is_busy("u")  # were it to come back, the unit is another's


def test_a_worker_that_has_ended_leaves_its_claims_to_others(store):
    other = looking(store, worker=ELSEWHERE)
    with other.beating():
        assert other.take("u")
        assert looking(store).is_busy("u")
    assert not looking(store).is_busy("u")


def test_signs_of_life_are_given_while_a_block_runs(store):
    claims = Claims(store, lease=0.04)
    with claims.beating():
        signs = {store.read(f"run/workers/{claims.worker}") for _ in range(20_000)}
    assert len(signs) > 1
    assert store.names("run/workers") == []


def test_deaths_are_told_once_and_counted(store):
    name = process_name(os.getpid())
    dying = looking(store, worker=f"{name}-x")
    assert dying.take("u") and dying.take("v")
    watcher = looking(store)
    assert sorted(watcher.tell_death(name, "SIGSEGV")) == ["u", "v"]
    assert watcher.tell_death(name, "SIGSEGV") == []
    other = looking(store)
    assert not other.is_busy("u")
    assert other.tries("u") == (("SIGSEGV",), 0)
    assert other.take("u") and other.tries("u") == (("SIGSEGV",), 0)


def test_failures_are_noted_with_their_keys_and_cleared_with_the_run(store):
    one = unit("ab")
    problems = {"a": Status(StatusCode.GROUP_DAMAGED, "Group g is damaged.")}
    looking(store).fail(one, frame("b", status_code="failed"), problems)
    looking(store).fail(unit("c"), pd.DataFrame(), problems)
    other = looking(store)
    assert other.failures == {one.name, unit("c").name}
    failure = other.failure(one.name)
    pd.testing.assert_frame_equal(failure.rows, frame("b", status_code="failed"))
    assert (failure.problems, failure.keys) == (problems, ("key-a", "key-b"))
    assert (len(other.failure(unit("c").name).rows), other.failure("none").keys) == (0, ())
    for name in store.names("run/workers"):
        store.delete(f"run/workers/{name}")
    alive, leaving = Claims(store), Claims(store)
    with alive.beating():
        leaving.clear()
        leaving.refresh()
        assert leaving.failures
        alive.clear()  # nobody else is at work
        leaving.refresh()
        assert not leaving.failures
    assert not any(store.names(f"run/{name}") for name in ("claims", "deaths", "failures", "workers"))


def test_a_signal_takes_the_sign_of_life_away(store, tmp_path):
    script = (
        "from mdjax.processes import run\nfrom mdjax.stores import LocalStore\nfrom mdjax.sweeps.signs import Signs\n"
        "from pathlib import Path\n"
        f"signs = Signs(LocalStore(Path({str(store.folder)!r})))\n"
        "def command():\n    with signs.beating():\n        print('begun', flush=True)\n        input()\n"
        "run('test', command, own_process=True)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        assert len(store.names("run/workers")) == 1
        process.terminate()
        assert process.wait(30) == 143
    assert store.names("run/workers") == []


@pytest.mark.parametrize("is_alive", [True, False])
def test_what_failed_in_a_run_elsewhere_is_cleared_once_it_is_known_to_have_ended(store, clock, monkeypatch, is_alive):
    other = looking(store, worker=ELSEWHERE)
    other.fail(unit("a"), frame("a", status_code="failed"), {})
    said, count = [], [0]

    def pause(seconds):
        clock[0] += 16
        count[0] += is_alive
        store.write(f"run/workers/{ELSEWHERE}", str(count[0]).encode())

    monkeypatch.setattr(claims.time, "sleep", pause)
    own = Claims(store)
    own.clear()  # who does not wait takes it for alive
    own.refresh()
    assert own.failures
    own.clear(say=said.append)
    assert len(said) == 1 and "Another worker left what failed" in said[0]
    own.refresh()
    assert bool(own.failures) == is_alive


@pytest.mark.parametrize("name", ["odd", "u.x", "..", "u.-1", "u.99999999999999999999"])
def test_files_that_are_no_claims_are_left_alone(store, name):
    (store.folder / "run" / "claims").mkdir(parents=True)
    if name != "..":
        (store.folder / "run" / "claims" / name).write_text("x")
    own = looking(store)
    assert own.take("v")
