"""Where compiled programs are kept."""

import jax
import pytest

from mdjax.engine import compilation


@pytest.mark.parametrize(
    ("backend", "variable", "known", "expected"),
    [
        ("gpu", "", None, "home/mdjax/compiled"),
        ("gpu", "elsewhere", None, "elsewhere"),
        ("gpu", "off", None, None),
        ("gpu", "", "the user's", "the user's"),
        ("cpu", "", None, f"home/mdjax/compiled/cpu-{compilation._cpu_kind()}"),
        ("cpu", "elsewhere", None, f"elsewhere/cpu-{compilation._cpu_kind()}"),
    ],
)
def test_where_compiled_programs_are_kept(monkeypatch, backend, variable, known, expected):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("MDJAX_COMPILATION_CACHE", variable)
    monkeypatch.setenv("XDG_CACHE_HOME", "home")
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        jax.config.update("jax_compilation_cache_dir", known)
        compilation.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == expected
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
