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
from mdjax.sweeps import claims as module
from mdjax.sweeps.claims import Claims, process_name

ELSEWHERE = "ffffffffffff-7-1-abc"
"""A worker of another machine."""


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "table")


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
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
    assert sum(looking(store).is_busy("u") for _ in range(1)) == 1


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
    process.kill()  # its parent has not asked for its end yet: a zombie is gone, too
    process_ended = [looking(store).is_busy("u") for _ in range(200)]
    process.communicate()
    assert not process_ended[-1] or not looking(store).is_busy("u")
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
    clock[0] += 59
    store.write(f"run/workers/{ELSEWHERE}", b"1")  # by a clock that may be years off
    assert own.is_busy("u")
    clock[0] += 59
    assert own.is_busy("u")
    clock[0] += 2
    assert not own.is_busy("u") and own.take("u")
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


@pytest.mark.parametrize("name", ["odd", "u.x", "..", "u.-1", "u.99999999999999999999"])
def test_files_that_are_no_claims_are_left_alone(store, name):
    (store.folder / "run" / "claims").mkdir(parents=True)
    if name != "..":
        (store.folder / "run" / "claims" / name).write_text("x")
    own = looking(store)
    assert own.take("v")
