"""What holds for every compiled program: 32-bit numbers, and a place on disk where it is kept between runs."""

import contextlib
import functools
import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache

from mdjax.console import warn
from mdjax.files import expanded

_WORTH_KEEPING = 0.1
"""Seconds of compiling from which on a program is kept: JAX's own second leaves out most of a sweep's small ones."""

P = ParamSpec("P")
R = TypeVar("R")


def in_32_bits(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run with JAX's 64-bit mode off whatever the caller has set.

    Programs are written, tested and tuned for float32; with 64 bits the types of their loops would not even agree.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return run


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs on disk between runs, unless its own setting says where.

    They go to `$XDG_CACHE_HOME/mdjax/compiled` (`~/.cache/mdjax/compiled`), those for CPUs to a folder for each kind
    of CPU; MDJAX_COMPILATION_CACHE names another folder, or is "off". Without a home directory nothing is kept: a
    folder that others may write to could hand on code of theirs. A folder that cannot be written costs a warning, no
    more.
    """
    wanted = os.environ.get("MDJAX_COMPILATION_CACHE", "")
    known = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if known is not None:
        if not _is_readable(known):
            jax.config.update("jax_compilation_cache_dir", None)
        return
    home = expanded("~")
    if wanted == "off" or not (wanted or os.environ.get("XDG_CACHE_HOME") or home.is_absolute()):
        return
    folder = Path(wanted or Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "mdjax" / "compiled")
    if jax.default_backend() == "cpu":
        # A home directory may be shared by machines with other instructions than those a program was compiled for.
        folder /= f"cpu-{_cpu_kind()}"
    if _is_readable(str(folder)):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)


@contextlib.contextmanager
def keeping_no_programs() -> Iterator[None]:
    """Meanwhile JAX neither reads nor writes its store of compiled programs.

    Those of a target would be written, and never found again: a device that is not here can load none.
    """
    is_used = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    # JAX asks once whether there is a store, and would not ask again.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", is_used)
        compilation_cache.reset_cache()


@functools.cache
def _is_readable(folder: str) -> bool:
    """Whether a store can be read without waiting: JAX opens whatever has the name of a program, a pipe too."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        odd = next((entry.name for entry in entries if not entry.is_file() and not entry.is_dir()), None)
        if odd is not None:
            warn(f"The store of compiled programs {folder} is not used: {odd} in it is no file. Remove it.")
            return False
    return True


def _cpu_kind() -> str:
    """A digest of what this CPU is and can do."""
    facts = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()


def num_operations(function: Callable[..., Any], *shapes: Any) -> float:
    """Floating-point operations of a function by the compiler's count before it optimises; 0 where it does not say.

    `shapes` are its arguments or their shapes. Costs a trace, and compiles nothing.
    """
    counted = jax.jit(function).lower(*shapes).cost_analysis() or {}
    return float(counted.get("flops", 0.0))
