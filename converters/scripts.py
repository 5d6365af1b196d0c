"""TorchScript archives → their state_dict. What they call code is text here, read for the names of weights alone."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from converters.errors import RefusedError
from converters.torch_files import Records
from mdjax.archives import MAX_ENTRIES
from mdjax.pickles import Account, Constructor, ForeignError, Unfinished

SCRIPT = "it is TorchScript"
"""How refusals of these files begin."""

_PREFIX = "__torch__."
_CUSTOM = "__torch__.torch.classes."
_CLASS = re.compile(r"class (\w+)\(Module\):")
_LIST = re.compile(r"  __(parameters|buffers)__ = \[(.*)\]")
_NAME = re.compile(r'"([^"\\]+)"')
_RESTORING = "__setstate__"
_LONGEST = 1000  # letters of a weight's name
_MOST_ATTRIBUTES = 300_000
_MOST_CODE = 2**25  # letters


class _Declared(NamedTuple):
    """What the text of a module's class says of its attributes."""

    parameters: set[str]
    buffers: set[str]


class _Object(Unfinished):
    """An object of a class of the archive's own: its name, and its attributes as they were stored."""

    def __init__(self, kind: str):
        self.kind = kind
        self.attributes: Any = None

    def finished(self, account: Account, state: Any) -> "_Object":
        self.attributes = state
        return self


def read_script(records: Records) -> Mapping[str, Any]:
    """The state_dict of a TorchScript archive: parameters and buffers by name, in torch's order.

    Nothing of it is run. Raises RefusedError where it refers to `__setstate__`, so that only its code would tell which
    weights it has, or to classes written in C++, as quantized layers are.
    """
    folder = records.folder("constants.pkl")
    declared = _declared(records, f"{folder}/code/")
    module = records.read(folder, _referred)
    if not isinstance(module, _Object):
        raise RefusedError(f"it holds a {type(module).__name__}, not a module")
    return _state_dict(module, declared)


def _referred(name: str) -> Any:
    """What TorchScript's pickles refer to beside what torch.save's do."""
    if name.startswith(_CUSTOM):
        raise ForeignError(f"{SCRIPT} that refers to torch.classes, as quantized layers do")
    if name.startswith(_PREFIX):
        return Constructor(lambda account, *arguments: _Object(name))
    return _LISTS.get(name)


def _same(account: Account, value: Any, *_: Any) -> Any:
    return value


_LISTS = {
    f"torch.jit._pickle.{name}": Constructor(_same)
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
}


def _declared(records: Records, code: str) -> dict[str, _Declared]:
    """Full name of a module's class → the names of its parameters and buffers, from the text of its declaration."""
    found: dict[str, _Declared] = {}
    declared = letters = 0
    for name in records.names:
        if not name.startswith(code) or not name.endswith(".py"):
            continue
        module, current = name.removeprefix(code).removesuffix(".py").replace("/", "."), None
        for line in records.lines(name):
            if _RESTORING in line:
                raise ForeignError(f"{SCRIPT} that refers to {_RESTORING}")
            if line.startswith("class "):
                match = _CLASS.fullmatch(line)
                current = found.setdefault(f"{module}.{match[1]}", _Declared(set(), set())) if match else None
            elif current is not None and (match := _LIST.fullmatch(line)):
                names = current.parameters if match[1] == "parameters" else current.buffers
                names.update(_NAME.findall(match[2]))
                declared += len(names)
            letters += len(line) + 1
            if len(found) > MAX_ENTRIES or declared > _MOST_ATTRIBUTES or letters > _MOST_CODE:
                raise RefusedError("its code is longer, or declares more, than that of any network")
    return found


def _state_dict(module: _Object, declared: Mapping[str, _Declared]) -> OrderedDict[str, Any]:
    """The weights of a module and of those in it, without recursion: parameters, buffers, then part after part."""
    found: OrderedDict[str, Any] = OrderedDict()
    waiting, seen = [(module, "")], 0
    while waiting:
        part, prefix = waiting.pop()
        attributes = part.attributes
        if part.kind not in declared or type(attributes) is not dict:
            raise RefusedError(f"its code declares no module {part.kind[:_LONGEST]} with attributes by name")
        seen += 1 + len(attributes)
        if not all(type(name) is str for name in attributes):
            raise RefusedError(f"its code declares no module {part.kind[:_LONGEST]} with attributes by name")
        # Long names would be joined again and again.
        longest = len(prefix) + max(map(len, attributes), default=0)
        if seen > _MOST_ATTRIBUTES or longest > _LONGEST:
            raise RefusedError("its modules are more, or lie deeper in each other, than those of any network")
        for group in declared[part.kind]:
            found.update({f"{prefix}{name}": attributes[name] for name in attributes if name in group})
        waiting += [
            (value, f"{prefix}{name}.")
            for name, value in reversed(attributes.items())
            if isinstance(value, _Object) and value.kind in declared
        ]
    return OrderedDict((name, value) for name, value in found.items() if value is not None)
