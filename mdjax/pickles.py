"""Pickles that nobody vouches for → plain values. Nothing that a pickle names is imported, called or changed.

An interpreter of its own for pickle's opcodes. It knows containers, numbers and texts; all else is made by constructors
that the caller gives, or refused. Its stack is a list and no container is hashed, so that no depth of nesting can
exhaust the process's own stack; steps and copied bytes are counted, so that no file can take more than its share.
"""

import abc
import mmap
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, NamedTuple, cast

import numpy as np

_MOST_STEPS = 5_000_000
"""Opcodes that one pickle may take; weights with an optimizer take some hundred for each of their tensors."""

_CONTAINER_STEPS = 4
"""What a container or a constructed value counts as, in opcodes."""

_KEYS = (str, bytes, int, float, type(None), np.bool_, np.integer, np.floating)
_KEY_BITS = 64  # beyond, whole numbers of one hash are without end
_KEY_DEPTH = 4  # of tuples in tuples
_TUPLE_STEPS = 20
_ALIKE = 32  # the hashes of tuples are no secret: so many may have one
_LETTERS = 1000  # of a key that are compared within what one opcode may take
_MOST_TOLD = 5
_MOST_FOREIGN = 1000
_LONGEST_TOLD = 100
_LONGEST_NAME = 1000

_PLAIN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Opcodes that push what they carry."""


class PickleError(ValueError):
    """A pickle is not to be read; the message is the reason, without the file's name."""


class ForeignError(PickleError):
    """A pickle needs classes or functions that nobody gave a constructor for."""


class Account:
    """What one pickle may still take, in opcodes and in bytes that are copied."""

    def __init__(self, most_bytes: int):
        self._steps, self._bytes = _MOST_STEPS, most_bytes
        self._tuples: dict[int, set[Any]] = {}

    def step(self, count: int = 1) -> None:
        """Count opcodes. Raises PickleError where there are too many."""
        self._steps -= count
        if self._steps < 0:
            raise PickleError(f"its pickle takes more than {_MOST_STEPS} steps, which weights never do")

    def copy(self, count: int) -> None:
        """Count bytes, before they are copied. Raises PickleError where they are more than the file can have."""
        self._bytes -= count
        if self._bytes < 0:
            raise PickleError("its pickle copies the same bytes again and again, which weights never do")

    def key(self, value: tuple[Any, ...]) -> None:
        """Count a tuple that becomes a key. Raises PickleError where too many have one hash, so that each is slow."""
        alike = self._tuples.setdefault(hash(value), set())
        alike.add(value)
        if len(alike) > _ALIKE:
            raise PickleError(f"its pickle has more than {_ALIKE} keys of one hash, which weights never have")


class Constructor(NamedTuple):
    """Makes what a pickle means by calling a class or function: `function(account, *arguments)`."""

    function: Callable[..., Any]


class Unfinished(abc.ABC):
    """What a constructor returns where the value follows as its state."""

    @abc.abstractmethod
    def finished(self, account: Account, state: Any) -> Any:
        """The value that takes the place of this one."""


class _Foreign:
    """Stands for whatever is foreign, and for all that it would make."""


_FOREIGN = _Foreign()


def load(
    file: IO[bytes] | mmap.mmap,
    size: int,
    find: Callable[[str], Any],
    *,
    persistent: Callable[[Any], Any] | None = None,
    text: Callable[[bytes], Any] = bytes,
) -> Any:
    """The value of the one pickle at a file's position, which is moved behind it.

        file: in memory or memory-mapped, so that read() never asks for more than there is.
        size: bytes that may be copied.
        find: the full name of a class or function → a `Constructor`, another value that stands for it, or None.
        persistent: what a persistent id stands for.
        text: what a byte string of Python 2 is read as.

    Raises PickleError, or its ForeignError, which lists the names that were not found; and whatever a pickle that is
    cut or damaged leads to, such as a ValueError or an IndexError.
    """
    machine = _Machine(Account(size), find, persistent, text)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], file)):
            machine.step(opcode.name, argument)
    except PickleError:
        if not machine.foreign:
            raise
    if machine.foreign:
        names = sorted(name[:_LONGEST_TOLD] for name in machine.foreign)
        more = f" and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
        raise ForeignError(f"it refers to {', '.join(names[:_MOST_TOLD])}{more}")
    return machine.pop()


def checked_key(account: Account, key: Any) -> Any:
    """A key of a dictionary or an item of a set, whose hash costs little.

    Raises PickleError for one that is neither text nor number, nor a tuple of some of these and of such tuples.
    """
    _check_key(account, key, _KEY_DEPTH)
    if type(key) is tuple:
        account.key(key)
    return key


def _check_key(account: Account, part: Any, depth: int) -> None:
    if type(part) is tuple and depth > 0:
        account.step(_TUPLE_STEPS + len(part))
        for inner in part:
            _check_key(account, inner, depth - 1)
        return
    if not isinstance(part, _KEYS):
        raise PickleError(f"its pickle has a {type(part).__name__} in a key, where weights have names")
    if isinstance(part, int) and part.bit_length() > _KEY_BITS:
        raise PickleError(f"its pickle has a whole number of {part.bit_length()} bits as a key")
    if isinstance(part, str | bytes):
        account.step(len(part) // _LETTERS)


class _Machine:
    """The stacks and the memo of a pickle that is being read."""

    def __init__(
        self,
        account: Account,
        find: Callable[[str], Any],
        persistent: Callable[[Any], Any] | None,
        text: Callable[[bytes], Any],
    ):
        self.foreign: set[str] = set()
        self._account, self._find, self._persistent, self._text = account, find, persistent, text
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._unfinished: dict[int, list[int]] = {}

    def pop(self) -> Any:
        """The value on top, taken off."""
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        self._account.step()
        if name in _PLAIN:
            self._push(argument)
            return
        match name:
            case "BINGET" | "LONG_BINGET" | "GET":
                self._push(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._remember(argument)
            case "MEMOIZE":
                self._remember(len(self._memo))
            case "MARK":
                self._marked.append(self._stack)
                self._stack = []
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                self._push(self._text(argument.encode("latin-1")))
            case "NONE":
                self._push(None)
            case "NEWTRUE" | "NEWFALSE":
                self._push(name == "NEWTRUE")
            case "EMPTY_TUPLE":
                self._push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._push(tuple(self._last(int(name[-1]))))
            case "TUPLE":
                self._push(tuple(self._items()))
            case "EMPTY_LIST" | "LIST":
                self._make(self._items() if name == "LIST" else [])
            case "EMPTY_DICT" | "DICT":
                items = self._items() if name == "DICT" else []
                self._make({})
                self._set(items)
            case "EMPTY_SET":
                self._make(set())
            case "FROZENSET":
                self._make(frozenset(checked_key(self._account, item) for item in self._items()))
            case "APPEND" | "APPENDS":
                self._append(self._items() if name == "APPENDS" else self._last(1))
            case "SETITEM" | "SETITEMS":
                self._set(self._items() if name == "SETITEMS" else self._last(2))
            case "ADDITEMS":
                self._add(self._items())
            case "POP":
                # Pickle's own rule: where nothing lies above it, the mark goes.
                if self._stack or not self._marked:
                    self.pop()
                else:
                    self._items()
            case "POP_MARK":
                self._items()
            case "DUP":
                self._push(self._stack[-1])
            case "GLOBAL":
                self._refer(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL":
                module, attribute = self._last(2)
                # Tuples of tuples would be spelled out, and remembered texts joined, again and again.
                if type(module) is not str or type(attribute) is not str:
                    raise PickleError("its pickle refers to a name that is no text")
                if len(module) + len(attribute) > _LONGEST_NAME:
                    raise PickleError("its pickle refers to a name that is longer than any")
                self._refer(f"{module}.{attribute}")
            case "REDUCE" | "NEWOBJ":
                self._construct(*self._last(2))
            case "NEWOBJ_EX":
                made, arguments, keywords = self._last(3)
                self._construct(made, arguments if type(keywords) is dict and not keywords else None)
            case "OBJ":
                made, *arguments = self._items()
                self._construct(made, tuple(arguments))
            case "INST":
                arguments = tuple(self._items())
                self._refer(argument.replace(" ", ".", 1))
                self._construct(self.pop(), arguments)
            case "BUILD":
                self._build(*self._last(2))
            case "BINPERSID":
                if self._persistent is None:
                    raise PickleError("its pickle refers to something outside it")
                self._push(self._persistent(self.pop()))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise PickleError(f"its pickle uses {name}, which weights never do")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _make(self, container: Any) -> None:
        self._account.step(_CONTAINER_STEPS)
        self._push(container)

    def _items(self) -> list[Any]:
        """All above the last mark, taken off with it."""
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _last(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        if len(items) < count:
            raise PickleError("its pickle takes more from its stack than there is")
        del self._stack[-count:]
        return items

    def _remember(self, index: int) -> None:
        value = self._memo[index] = self._stack[-1]
        if isinstance(value, Unfinished):
            self._unfinished.setdefault(id(value), []).append(index)

    def _target(self, *kinds: type) -> Any:
        """The value on top where it is of one of these; None where it is foreign."""
        target = self._stack[-1]
        if target is not _FOREIGN and type(target) not in kinds:
            raise PickleError(f"its pickle puts items into a {type(target).__name__}")
        return None if target is _FOREIGN else target

    def _append(self, items: list[Any]) -> None:
        if (target := self._target(list)) is not None:
            target.extend(items)

    def _set(self, items: list[Any]) -> None:
        if (target := self._target(dict, OrderedDict)) is not None:
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[checked_key(self._account, key)] = value

    def _add(self, items: list[Any]) -> None:
        if (target := self._target(set)) is not None:
            target.update([checked_key(self._account, item) for item in items])

    def _refer(self, name: str) -> None:
        found = self._find(name)
        if found is None:
            self.foreign.add(name[:_LONGEST_NAME])
            if len(self.foreign) > _MOST_FOREIGN:
                raise PickleError("its pickle refers to more classes and functions than any")  # load() names them
        self._push(_FOREIGN if found is None else found)

    def _construct(self, made: Any, arguments: Any) -> None:
        if made is not _FOREIGN and (not isinstance(made, Constructor) or type(arguments) is not tuple):
            raise PickleError(f"its pickle calls a {type(made).__name__}, which is no function of names and numbers")
        if made is not _FOREIGN:
            self._account.step(len(arguments))
        if made is _FOREIGN or any(argument is _FOREIGN for argument in arguments):
            self._push(_FOREIGN)  # refused in the end, when all names are known
        else:
            self._make(made.function(self._account, *arguments))

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Unfinished):
            finished = target.finished(self._account, state)
            for index in self._unfinished.pop(id(target), []):
                if self._memo[index] is target:
                    self._memo[index] = finished
            target = finished
        elif type(target) not in (dict, OrderedDict, _Foreign):  # what a dictionary has beside its items is no weight
            raise PickleError(f"its pickle gives a {type(target).__name__} a state")
        self._push(target)
