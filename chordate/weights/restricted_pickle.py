"""Reads pickles without importing or calling anything in them.

A pickle is a program: its opcodes put values on a stack and combine them. `Unpickler` executes the opcodes for numbers,
text, bytes, dicts, lists and tuples. Classes and functions are only names here: a few of them are replaced by functions
of this package, other calls are refused, and objects of other classes have no value.

`torch.load(weights_only=True)` refuses a whole file if one object in it has an unknown class, such as the `args` of
torchvision's training script, and has no limits on the time and memory that a pickle takes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from chordate.errors import CheckpointError
from chordate.text import printable

MAX_OPCODES = 5_000_000  # limit per pickle; a large model with the state of its optimizer has 100,000
MAX_DIMENSIONS = 64  # limit on the number of dimensions of tensors and arrays, as in numpy and PyTorch
_PAIR = 8  # a copied dict item counts as this many bytes
# Opcodes that put their argument on the stack. Integers of unlimited length are not among them.
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TEXTS = ("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_ARGUMENTS = frozenset({*_NUMBERS, *_TEXTS, *_BYTES})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Harmless calls, most of them of the standard library, whose results are not read.
_WITHOUT_VALUE = frozenset(
    {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "complex", "slice")}
    | {f"pathlib.{pure}{system}Path" for pure in ("", "Pure") for system in ("Posix", "Windows")}
    | {f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")}
    | {"collections.deque", "functools.partial", "torch.device"}
)


class Unread:
    """Placeholder for a class or function, which is not imported, or for an object of such a class. Its value is
    None, except in subclasses.

    Args:
        name: module and name of the class or function.
    """

    def __init__(self, name: str):
        self.name = name

    def build(self, state: Any) -> None:
        """Receive the state that `__setstate__` would receive."""

    def value(self) -> Any:
        """The plain value or tensor of the object; None if it is not read.

        Raises:
            ValueError: the pickle gave the object invalid arguments.
        """
        return None


class Unpickler:
    """Reads one pickle.

    Args:
        file: file at the position where the pickle starts.
        source: path, for messages.
        size: size of `file` in bytes. All calls together may receive and create at most twice as many items and bytes.
        calls: mapping from the name of a function in the pickle to the function that is called in its place.
        load_storage: returns the object for a persistent id; None if the pickle must not have persistent ids.

    Attributes:
        unread: name of the class of the first object that NEWOBJ or NEWOBJ_EX creates, which is not read; None if there
            is no such object.
    """

    def __init__(
        self,
        file: BinaryIO,
        source: str,
        size: int,
        calls: Mapping[str, Callable[..., Any]],
        load_storage: Callable[[Any], Any] | None = None,
    ):
        self._file, self._source, self._budget, self._load_storage = file, source, 2 * size, load_storage
        self._calls: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": self._dict,
            "collections.Counter": self._dict,
            "collections.defaultdict": lambda factory=None, items=(): self._dict(items),
            "builtins.getattr": _attribute,  # a method, as in MMEngine's HistoryBuffer
            "__builtin__.getattr": _attribute,
            "_codecs.encode": self._encode,  # bytes in pickles of protocol 2
            **{
                f"{module}.{name}": self._encode
                for module in ("builtins", "__builtin__")
                for name in ("bytes", "bytearray")
            },
            **calls,
        }
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.unread: str | None = None

    def load(self) -> Any:
        """Execute the opcodes up to the end of the pickle.

        Raises:
            CheckpointError: the pickle is truncated or too long, calls an unknown function, or has an unknown opcode.
            Exception: the pickle is damaged; there are many types of errors.
        """
        for name, argument in self._opcodes():
            if name in _ARGUMENTS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _OPERATIONS:
                _OPERATIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise forbidden(self._source, f"opcode {name}")
        return self._stack.pop()

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self._file)):
                if count > MAX_OPCODES:
                    raise CheckpointError(f"{self._source} is not a checkpoint: its pickle has too many values")
                yield opcode.name, argument
        except ValueError as error:
            raise CheckpointError(f"{self._source} is truncated or damaged; copy or download it again") from error

    def _spend(self, amount: int) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise CheckpointError(f"{self._source} is not a checkpoint: its pickle creates more data than the file has")

    # --- functions in place of those of the standard library -----------------------------------------------------

    def _dict(self, items: Any = ()) -> dict[Any, Any]:
        pairs = items.items() if isinstance(items, dict) else items
        self._spend(_PAIR * len(pairs))
        result: dict[Any, Any] = {}
        for key, value in pairs:
            _set(result, key, value)
        return result

    def _encode(self, text: str | bytes = "", *_: Any) -> bytes:
        self._spend(len(text))
        return as_bytes(text)

    # --- opcodes -------------------------------------------------------------------------------------------------

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        """Pop the items above the last mark, and return them."""
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _list(self, _: Any) -> None:
        items = self._marked()
        self._stack.append(items)

    def _tuple(self, _: Any) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def _short_tuple(self, length: int) -> None:
        items = tuple(self._stack[-length:])
        if len(items) < length:
            raise IndexError("the stack has too few items for a tuple")
        del self._stack[-length:]
        self._stack.append(items)

    def _frozenset(self, _: Any) -> None:
        self._marked()
        self._stack.append(Unread("builtins.frozenset"))

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], Unread):
            list.extend(self._stack[-1], items)

    def _set_items(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self._stack[-1], key, value)

    def _new_dict(self, _: Any) -> None:
        items = self._marked()
        self._stack.append({})
        self._set_items(items)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        _set(self._stack[-1], key, value)

    def _put(self, slot: int | None) -> None:
        self._memo[len(self._memo) if slot is None else slot] = self._stack[-1]

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(Unread(f"{module:.100}.{name:.100}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        name = function.name if isinstance(function, Unread) else type(function).__name__
        self._spend(len(arguments))
        if name in self._calls:
            self._stack.append(self._calls[name](*arguments))
        elif name in _WITHOUT_VALUE:
            self._stack.append(Unread(name))
        else:
            raise forbidden(self._source, name)

    def _new_object(self, arguments: int) -> None:
        """On the stack, replace a class and the `arguments` items above it by a placeholder for an object."""
        del self._stack[-arguments:]
        name = self._stack.pop().name
        self.unread = self.unread or name
        self._stack.append(Unread(name))

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Unread):
            self._stack[-1].build(state)

    def _persistent(self, _: Any) -> None:
        if self._load_storage is None:
            raise forbidden(self._source, "opcode BINPERSID")
        self._stack.append(self._load_storage(self._stack.pop()))


_OPERATIONS: dict[str, Callable[[Unpickler, Any], Any]] = {
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop,
    "POP_MARK": lambda machine, _: machine._marked(),
    "DUP": lambda machine, _: machine._stack.append(machine._stack[-1]),
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "EMPTY_SET": lambda machine, _: machine._stack.append(Unread("builtins.set")),
    "FROZENSET": Unpickler._frozenset,
    "ADDITEMS": lambda machine, _: machine._marked(),
    "DICT": Unpickler._new_dict,
    "LIST": Unpickler._list,
    "TUPLE": Unpickler._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "APPEND": lambda machine, _: machine._append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._marked()),
    "SETITEM": Unpickler._setitem,
    "SETITEMS": lambda machine, _: machine._set_items(machine._marked()),
    "BINPUT": Unpickler._put,
    "LONG_BINPUT": Unpickler._put,
    "MEMOIZE": Unpickler._put,
    "BINGET": lambda machine, slot: machine._stack.append(machine._memo[slot]),
    "LONG_BINGET": lambda machine, slot: machine._stack.append(machine._memo[slot]),
    "GLOBAL": lambda machine, name: machine._stack.append(Unread(name.replace(" ", "."))),
    "STACK_GLOBAL": Unpickler._stack_global,
    "REDUCE": Unpickler._reduce,
    "NEWOBJ": lambda machine, _: machine._new_object(1),
    "NEWOBJ_EX": lambda machine, _: machine._new_object(2),
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._persistent,
}


def _attribute(owner: Any, name: Any) -> Unread:
    return Unread(f"{owner.name:.100}.{name:.100}")


def _set(target: Any, key: Any, value: Any) -> None:
    """Set an item of a dict. Does nothing if the target or the key is an `Unread`, or if the key is a tuple."""
    if isinstance(target, Unread) or isinstance(key, Unread | tuple):
        return
    if isinstance(key, int) and key.bit_length() > 63:  # many such keys could have the same hash, which is slow
        raise ValueError("a key of a dict is an integer of more than 63 bits")
    dict.__setitem__(target, key, value)


def as_bytes(data: Any) -> bytes:
    """Bytes as they are; text of Python 2 as bytes.

    Raises:
        ValueError: `data` is neither bytes nor text.
    """
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"expected bytes, got {type(data).__name__}")
    return bytes(data)


def forbidden(source: str, what: str) -> CheckpointError:
    """The error for a pickle that calls an unknown function, or that has objects but no tensors."""
    return CheckpointError(
        f"{source} contains more than tensors ({printable(what, 100)}) and could run code, so it was not opened; save "
        f"only its state_dict(), as .safetensors"
    )
