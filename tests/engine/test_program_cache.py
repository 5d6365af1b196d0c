"""Compiled programs: compiled once, kept while there is room, and given back with their mappings."""

import jax
import numpy as np
import pytest
from helpers import digits, setting

from mdjax.engine import program_cache
from mdjax.engine.program_cache import PROGRAMS, ProgramCache, Room, room_taken
from mdjax.zoo.training import train_stack

on_linux = pytest.mark.skipif(room_taken([]).mappings == 0, reason="the system does not tell a process's mappings")


class Program:
    """What XLA tells of one."""

    generated_code_size_in_bytes = 1

    def memory_analysis(self):
        return self


def compiled(number):
    """A program of its own for every number, of some kernels."""
    shape = jax.ShapeDtypeStruct((40 + number, 40 + number), np.float32)
    return jax.jit(lambda x: jax.numpy.sort(x @ x) * x.sum()).lower(shape).compile()


@on_linux
def test_programs_that_are_given_back_free_their_mappings():
    compiled(0)  # what the first one starts for all
    before = room_taken([]).mappings
    held = [compiled(number) for number in range(1, 4)]
    each = (room_taken([]).mappings - before) / len(held)
    assert each > 5
    del held
    cache = ProgramCache(Room(int(before + 3 * each), 2**40))
    most = 0
    for number in range(10, 20):
        cache.get(number, lambda number=number: compiled(number))
        most = max(most, room_taken([]).mappings)
    # One more than the limit allows is there while it runs.
    assert most < before + 5.5 * each
    assert 1 <= len(cache) <= 5


@on_linux
def test_training_gives_its_programs_back():
    def trained(width):
        train_stack([setting("mlp", width=width, epochs=1)], digits())

    trained(2)
    PROGRAMS.clear()
    before, compilations = room_taken([]).mappings, PROGRAMS.num_compiled
    trained(3)
    trained(3)
    assert PROGRAMS.num_compiled - compilations == 3  # the weights at first, the orders of examples, and an epoch
    taken = room_taken([]).mappings - before
    PROGRAMS.clear()
    assert room_taken([]).mappings - before < 0.2 * taken


@pytest.mark.parametrize("room", [Room(3, 10**9), Room(10**9, 3)], ids=["mappings", "bytes of code"])
def test_the_programs_used_last_are_kept(monkeypatch, room):
    monkeypatch.setattr(program_cache, "room_taken", lambda programs: Room(len(programs), len(programs)))
    cache, made = ProgramCache(room), []

    def get(key):
        return cache.get(key, lambda: made.append(key) or Program())

    first = get("a")
    for key in "bcd":
        get(key)
        assert get("a") is first
    assert made == ["a", "b", "c", "d"]
    get("e")  # more than three were there: the one unused for longest had to go
    get("b")
    assert made == ["a", "b", "c", "d", "e", "b"]
    assert get("a") is first


def test_where_that_is_not_enough_what_jax_keeps_goes_too_once_and_the_limits_count_from_there(monkeypatch, capsys):
    cleared, others, own = [], [10], []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    monkeypatch.setattr(program_cache, "room_taken", lambda programs: Room(others[0] + len(programs), 0))
    cache = ProgramCache(Room(5, 5))
    for _ in range(3):
        for key in "abc":
            cache.get(key, lambda: own.append(1) or Program())
    assert len(cleared) == 1 and len(own) == len(cache) == 3
    assert cache.limits == Room(15, 5)
    others[0] = 100  # others have taken more since
    cache.get("d", Program)
    cache.get("e", Program)
    assert len(cleared) == 2 and len(cache) == 2
    assert capsys.readouterr().err.count("leaves little room") == 1


def test_where_the_system_does_not_tell_their_number_is_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(program_cache, "_MAPPINGS", tmp_path / "nothing")
    monkeypatch.setattr(program_cache, "_generated_bytes", lambda program: 0)
    cache = ProgramCache()
    for number in range(300):
        cache.get(number, object)
    assert len(cache) == 256
    cache.get(299, lambda: pytest.fail("the one used last had gone"))


def test_code_on_other_devices_counts_by_the_compilers_account(monkeypatch, tmp_path):
    class Program:
        def memory_analysis(self):
            return type("Account", (), {"generated_code_size_in_bytes": 100})

    monkeypatch.setattr(program_cache, "_MAPPINGS", tmp_path / "nothing")
    assert room_taken([100, 100]) == Room(0, 200)
    cache = ProgramCache(Room(0, 150))
    for number in range(4):
        cache.get(number, Program)
    assert len(cache) == 2
