"""Settings, functions and the user's own classes as texts: the same in every process, others where they compute others.

mdjax's own classes are told by their names and settings; what they compute is that of a version of mdjax.
"""

import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

_CONSTANTS = (bool, int, float, complex, str, bytes, types.NoneType)


def described(value: Any) -> str:
    """Settings as text that is the same in every process, whatever module a class or function stands in.

    A function is told by what it computes: its instructions, constants and closure, and the functions, classes and
    plain constants of its own file that it names. What it imports from other files counts by its name alone.
    """
    return _described(value, set())


def _described(value: Any, seen: set[Any]) -> str:
    """The same; `seen` are the functions and classes that are told already, of which the names are enough."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ", ".join(
            f"{field.name}={_described(getattr(value, field.name), seen)}" for field in dataclasses.fields(value)
        )
        return f"{type(value).__qualname__}({fields}){_described_class(type(value), seen)}"
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, tuple(sorted(value.keywords.items())))
        return f"partial({', '.join(_described(part, seen) for part in parts)})"
    if isinstance(value, tuple | list):
        return f"({', '.join(_described(part, seen) for part in value)})"
    if isinstance(function := _function(value), types.FunctionType):
        return f"{function.__qualname__}{_described_function(function, seen)}"
    return repr(value)


def _function(value: Any) -> Any:
    """The plain function inside methods, properties and what decorators (such as `jax.jit`) make; else the value."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, functools.cached_property):
        value = value.func
    return inspect.unwrap(value) if callable(value) else value


def _described_function(function: types.FunctionType, seen: set[Any]) -> str:
    if function in seen:
        return ""
    seen.add(function)
    # Two functions made by one `def` differ in what they close over.
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    settings = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items(), *cells]
    body = _described_code(function.__code__, function.__doc__) + _described(settings, seen)
    return f":{_digest(body + ''.join(_described_names(function, seen)))}"


def _described_names(function: types.FunctionType, seen: set[Any]) -> Iterator[str]:
    """What a function names in its own file."""
    module = str(function.__globals__.get("__name__"))
    if _is_mdjax(module):
        return
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        inner = _function(value)
        if _is_constant(value):
            yield f"{name}={value!r}"
        elif getattr(inner, "__module__", None) == module:
            yield f"{name}={_described_class(inner, seen) if isinstance(inner, type) else _described(inner, seen)}"


def _described_class(kind: type, seen: set[Any]) -> str:
    """What the methods of a user's own class compute, inherited ones included."""
    own = [base for base in kind.__mro__ if base is not object and not _is_mdjax(base.__module__) and base not in seen]
    seen.update(own)
    parts = []
    for base in own:
        for name, value in sorted(vars(base).items()):
            is_constant = _is_constant(value) and not name.startswith("__")
            if is_constant or isinstance(_function(value), types.FunctionType):
                parts.append(f"{name}={_described(value, seen)}")
    return _digest("".join(parts)) if parts else ""


def _described_code(code: types.CodeType, doc: str | None = None) -> str:
    """What a function computes: its instructions, names and constants, but not its docstring."""

    def text(constant: Any) -> str:
        if isinstance(constant, types.CodeType):
            return _described_code(constant)
        # Sets of texts come in another order in each process.
        return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)

    constants = [text(constant) for constant in code.co_consts if doc is None or constant != doc]
    return f"{code.co_code!r}{code.co_names!r}{constants!r}"


def _names(code: types.CodeType) -> set[str]:
    """The names in a function and in the functions inside it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _is_constant(value: Any) -> bool:
    return isinstance(value, _CONSTANTS) or (isinstance(value, tuple) and all(map(_is_constant, value)))


def _is_mdjax(module: str) -> bool:
    return module.partition(".")[0] == "mdjax"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
