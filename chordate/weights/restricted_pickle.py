"""Reads pickles of numpy arrays, such as Detectron2's `.pkl` files, without importing or calling anything in them.

The names of numpy's functions in a pickle stand for classes of this module that only keep their arguments. Every other
name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chordate.errors import CheckpointError
from chordate.text import printable
from chordate.weights.plain_contents import PlainCopy

# Files in torch.save's old format start with one of these pickles of the magic number.
TORCH_STARTS = tuple(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=protocol) for protocol in range(2, 6))
MAX_BYTES = 8 << 30
MAX_OPCODES = 2_000_000  # Detectron2's largest file has about 20,000
_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")  # as in the pickles of numpy.dtype

# The opcodes of pickles of protocols 2 … 5 for numbers, text, bytes, dicts, lists and tuples, and for objects, which
# `find_class` restricts. Not among them: objects by other opcodes, persistent ids, and integers of unlimited length.
_NAMES = """
PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_OPCODES = frozenset(_NAMES.split())


def read_pickle(path: Path) -> Any:
    """Read a pickle of nested dicts, lists, text, numbers and numpy arrays, which become tensors.

    Raises:
        CheckpointError: the file is truncated or too large, or contains other objects.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes, more than a checkpoint may have ({MAX_BYTES:,})")
    data = path.read_bytes()
    _check_opcodes(data, path)
    try:
        values = _Unpickler(io.BytesIO(data), path).load()
    except CheckpointError:
        raise
    except Exception as error:  # damaged files raise many types of errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {printable(reason)}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that these tensors are not writable; they are copied
        return _Copy(str(path), size)(values)


def _check_opcodes(data: bytes, path: Path) -> None:
    """Check that a pickle is complete, and has only opcodes for plain values and numpy arrays; executes nothing.

    Raises:
        CheckpointError: the pickle is incomplete, or has other opcodes.
    """
    memo = 0
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name not in _OPCODES:
                raise _forbidden(path, f"opcode {opcode.name}")
            memo += opcode.name == "MEMOIZE"
            slot = argument if argument is not None and opcode.name in ("BINPUT", "LONG_BINPUT") else 0
            if count > MAX_OPCODES or slot > count + memo:
                raise CheckpointError(f"{path} is not a checkpoint: its pickle has too many values")
    except ValueError as error:
        raise CheckpointError(f"{path} is truncated; copy or download it again") from error


def _forbidden(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} contains more than tensors ({printable(what, 100)}) and could run code, so it was not opened; save "
        f"only its state_dict(), as .safetensors"
    )


class _Array:
    """A numpy array: keeps the state that numpy's own `__setstate__` would receive."""

    def __init__(self, *_: Any):
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, tuple) else ()

    def tensor(self) -> torch.Tensor:
        """A tensor that shares memory with the pickle.

        Raises:
            ValueError: the state is invalid, or the elements are not numbers.
        """
        _, shape, dtype, fortran, data = self.state
        sides = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        data = _as_bytes(data)
        if not sides or not isinstance(dtype, _DType) or math.prod(shape) * dtype.numpy().itemsize != len(data):
            raise ValueError("an array's size differs from its bytes")
        flat = np.frombuffer(data, dtype.numpy()) if data else np.zeros(0, dtype.numpy())
        return torch.from_numpy(flat.reshape(shape, order="F" if fortran is True else "C"))


class _DType:
    """A numpy.dtype: keeps its name and byte order."""

    def __init__(self, name: Any = "", *_: Any):
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""

    def numpy(self) -> np.dtype[Any]:
        if self.name not in _DTYPES or self.order not in ("<", "|", "="):
            raise ValueError(f"arrays of {f'{self.order}{self.name}'!r:.40} are not tensors of numbers")
        return np.dtype(f"{self.order}{self.name}")


class _Scalar:
    """A numpy scalar."""

    def __init__(self, dtype: Any = None, data: Any = b"", *_: Any):
        self.dtype, self.data = dtype, data

    def value(self) -> Any:
        data = _as_bytes(self.data)
        if not isinstance(self.dtype, _DType) or self.dtype.numpy().itemsize != len(data):
            raise ValueError("a number's size differs from its bytes")
        return np.frombuffer(data, self.dtype.numpy())[0].item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order == "F", data)
    return array


def _encode(text: Any = b"", *_: Any) -> bytes:
    return _as_bytes(text)


def _as_bytes(data: Any) -> bytes:
    """Bytes as they are; text of Python 2 as bytes."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"expected bytes, got {type(data).__name__}")
    return bytes(data)


class _ArrayType:
    """numpy.ndarray, an argument of `_reconstruct`; pickles do not call it."""

    def __init__(self, *_: Any):
        raise ValueError("numpy.ndarray cannot be called")


_CLASSES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,  # bytes in pickles of protocol 2
    ("__builtin__", "bytes"): _encode,  # empty bytes in pickles of protocol 2
}
for _core in ("numpy.core", "numpy._core"):  # the name before and since numpy 2
    _CLASSES |= {(f"{_core}.multiarray", "_reconstruct"): _Array, (f"{_core}.multiarray", "scalar"): _Scalar}
    _CLASSES[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file, fix_imports=False, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CLASSES:
            raise _forbidden(self._path, f"{module}.{name}")
        return _CLASSES[module, name]


class _Copy(PlainCopy):
    """Copies the contents of a pickle, with arrays as tensors."""

    def __call__(self, value: Any, path: tuple[Any, ...] = ()) -> Any:
        try:
            if isinstance(value, _Array):
                return self._tensor(value.tensor(), path)
            if isinstance(value, _Scalar):
                return value.value()
        except ValueError as error:
            name = printable(".".join(map(str, path)), 160)
            raise CheckpointError(f"{self.source}: {name} cannot be read: {error}") from error
        return super().__call__(value, path)
