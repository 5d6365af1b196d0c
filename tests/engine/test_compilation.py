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
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.setenv("MDJAX_COMPILATION_CACHE", variable)
    monkeypatch.setenv("XDG_CACHE_HOME", "home")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        jax.config.update("jax_compilation_cache_dir", known)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
        compilation.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == expected
        # Where JAX's own settings say where, they also say what.
        kept_from = 0.1 if known is None and expected is not None else 1.0
        assert jax.config.jax_persistent_cache_min_compile_time_secs == kept_from
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
