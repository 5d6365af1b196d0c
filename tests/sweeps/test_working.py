"""Several processes at one table: all is done, once; what kills is left alone."""

import threading

import pytest
from sweep_units import frame, unit

from mdjax.errors import InputError
from mdjax.statuses import Status, StatusCode
from mdjax.stores import LocalStore
from mdjax.sweeps import working
from mdjax.sweeps.claims import Claims
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.running import Outcome
from mdjax.sweeps.working import Share, Sharing, work_through

UNITS = [unit(name) for name in ("ab", "c", "d", "ef")]


class Recorder:
    """Runs units by making their rows up; `deeds` may do something else with one."""

    def __init__(self, deeds=None):
        self.done, self.deeds = [], deeds or {}

    def run(self, one):
        models = "".join(key[-1] for key in one.keys)
        self.done.append(models)
        return self.deeds[models](one) if models in self.deeds else Outcome(frame(models), {})


class Died(BaseException):
    """In place of the end of a process."""


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    monkeypatch.setattr(working.Estimates, "seconds", lambda self, one: 100 - ord(one.keys[0][-1]))
    monkeypatch.setattr(working.Estimates, "learn", lambda *_: None)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "table")


def sharing(store, units=UNITS, **options):
    return Sharing(units, Commits(store), Claims(store), **options)


def worked(store, runner, units=UNITS, **options):
    own = sharing(store, units, **options)
    told = []
    with own.claims.beating():
        work_through(runner, own, lambda count=1, title=None: told.append(count))
    assert sum(told) == own.total
    return own


def done(store):
    return sorted(name for name in Commits(store).rows(UNITS, lambda *_: True)["model_id"])


def test_the_longest_units_go_first_and_a_second_run_does_nothing(store):
    first, second = Recorder(), Recorder()
    worked(store, first)
    assert first.done == ["ab", "c", "d", "ef"]
    worked(store, second)
    assert not second.done
    assert done(store) == list("abcdef")


def test_a_part_of_ones_own_comes_first(store):
    runner = Recorder()
    worked(store, runner, share=Share(1, 2))
    assert runner.done == ["c", "ef", "ab", "d"]


def test_many_at_once_do_each_unit_once(store):
    units = [unit(name) for name in "abcdef"]
    runners = [Recorder() for _ in range(4)]
    threads = [threading.Thread(target=worked, args=(store, runner, units)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(models for runner in runners for models in runner.done) == list("abcdef")
    assert done(store) == list("abcdef")


def test_units_that_another_has_are_waited_for(store, monkeypatch):
    other = sharing(store)
    other.look()
    held = other.take()
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            other.settle(held, Outcome(frame("ab"), {}))

    monkeypatch.setattr(working.time, "sleep", pause)
    runner = Recorder()
    with other.claims.beating():
        worked(store, runner)
    assert sorted(runner.done) == ["c", "d", "ef"] and len(pauses) == 3
    assert done(store) == list("abcdef")


def dying(one):
    raise Died


def died(store, runner):
    """A worker that dies at something, and a watcher that saw it; False where it ended well."""
    own = sharing(store)
    try:
        with own.claims.beating():
            work_through(runner, own, lambda *_, **__: None)
    except Died:
        name = own.claims.worker.rpartition("-")[0]
        assert Claims(store).tell_death(name, "SIGSEGV")
        return True
    return False


def test_what_kills_its_process_is_tried_on_its_own_and_then_left_alone(store):
    runner = Recorder({"ef": dying, "e": dying})
    deaths = 0
    while died(store, runner):
        deaths += 1
    assert deaths == 1 + working.MOST_DEATHS
    assert runner.done.count("ef") == 1 and runner.done.count("e") == working.MOST_DEATHS
    assert done(store) == list("abcdf")
    claims = Claims(store)
    claims.refresh()
    (name,) = claims.failures
    (row,) = claims.failure(name).rows.to_dict("records")
    assert (row["model_id"], row["status_code"]) == ("e", StatusCode.DIED)
    assert row["status"] == "its process ended 3 times while measuring it: SIGSEGV"
    claims.clear()  # the run is over: the next one tries it again
    again = Recorder()
    worked(store, again)
    assert again.done == ["e"]


def test_what_makes_processes_go_away_unseen_is_left_alone_too(store):
    runner = Recorder({"ef": dying, "e": dying, "f": dying})
    gone = 0
    while True:
        # Of another machine, of which nobody tells.
        own = Sharing(UNITS, Commits(store), Claims(store, worker=f"ffffffffffff-7-1-{gone}"))
        try:
            with own.claims.beating():
                work_through(runner, own, lambda *_, **__: None)
            break
        except Died:
            gone += 1
    assert gone == 3 + 2 * working.MOST_LAPSES
    assert done(store) == list("abcd")


def test_what_may_go_otherwise_the_next_time_is_settled_for_this_run_alone(store):
    def half(one):
        return Outcome(frame("ab", status_code=["ok", "failed"]), {})

    def hidden(one):
        return Outcome(frame("e"), {"f": Status(StatusCode.GROUP_DAMAGED, "Group g is damaged.")})

    runner = Recorder({"ab": half, "ef": hidden})
    own = worked(store, runner)
    assert sorted(runner.done) == ["ab", "c", "d", "ef"]
    assert done(store) == list("acde")
    problems = {}
    for name in own.claims.failures:
        problems |= own.claims.failure(name).problems
    assert [*problems] == ["f"]
    other = Recorder()
    worked(store, other)  # of the same run
    assert not other.done
    Claims(store).clear()
    worked(store, other)
    assert sorted(other.done) == ["b", "f"]


def test_a_store_that_is_full_costs_the_unit_at_hand_alone(store, monkeypatch):
    create, calls = LocalStore.create, []

    def full(self, name, content):
        calls.append(name)
        if name.startswith("shards") and len(calls) > 3:
            raise OSError(28, "No space left on device")
        return create(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "create", full)
        with pytest.raises(InputError, match="No space left on device. Free space, then run the same command again"):
            worked(store, Recorder())
    runner = Recorder()
    worked(store, runner)
    assert len(runner.done) == 3 and done(store) == list("abcdef")
