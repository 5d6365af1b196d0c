"""Modules that have moved, under the names by which scripts import from them."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("former", "now"), [("mdjax.data", "mdjax.zoo.data"), ("mdjax.alignment", "mdjax.landscape.alignment")]
)
def test_what_a_former_module_names_is_what_the_module_has_now(former, now):
    module, moved = importlib.import_module(former), importlib.import_module(now)
    for name in module.__all__:
        assert getattr(module, name) is getattr(moved, name)
