"""Replaces numpy's own functions for unpickling arrays, scalars and data types."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from chordate.weights.restricted_pickle import MAX_DIMENSIONS, Unread, as_bytes

_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")  # as in the pickles of numpy.dtype


class Array(Unread):
    """A numpy array: keeps the state that numpy's own `__setstate__` would receive."""

    def __init__(self, *_: Any):
        super().__init__("numpy.ndarray")
        self.state: Any = ()

    def build(self, state: Any) -> None:
        self.state = state

    def value(self) -> torch.Tensor:
        """A CPU tensor that shares memory with the unpickled bytes.

        Raises:
            ValueError: the state is invalid, or the data type is not supported.
        """
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("the state of an array is not (version, shape, data type, order, bytes)")
        _, shape, dtype, fortran, data = self.state
        sides = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape[:MAX_DIMENSIONS])
        data = as_bytes(data)
        if not sides or len(shape) > MAX_DIMENSIONS or math.prod(shape) * _dtype(dtype).itemsize != len(data):
            raise ValueError("an array's shape is invalid, or does not match its number of bytes")
        flat = np.frombuffer(data, _dtype(dtype)) if data else np.zeros(0, _dtype(dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that the tensor is not writable
            return torch.from_numpy(flat.reshape(shape, order="F" if fortran is True else "C"))


class DType(Unread):
    """A numpy.dtype: keeps its name and byte order."""

    def __init__(self, code: Any = "", *_: Any):
        super().__init__("numpy.dtype")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""


class Scalar(Unread):
    """A numpy scalar."""

    def __init__(self, dtype: Any = None, data: Any = b"", *_: Any):
        super().__init__("numpy.generic")
        self.dtype, self.data = dtype, data

    def value(self) -> Any:
        data = as_bytes(self.data)
        if _dtype(self.dtype).itemsize != len(data):
            raise ValueError("a scalar's data type does not match its number of bytes")
        return np.frombuffer(data, _dtype(self.dtype))[0].item()


def _dtype(dtype: Any) -> np.dtype[Any]:
    if not (isinstance(dtype, DType) and isinstance(dtype.code, str) and isinstance(dtype.order, str)):
        raise ValueError("an array or a scalar has no data type")
    if dtype.code not in _DTYPES or dtype.order not in ("<", "|", "="):
        raise ValueError(f"the data type {f'{dtype.order}{dtype.code}'!r:.40} is not supported")
    return np.dtype(f"{dtype.order}{dtype.code}")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.state = (1, shape, dtype, order == "F", data)
    return array


CALLS: dict[str, Callable[..., Any]] = {"numpy.dtype": DType}
for _core in ("numpy.core", "numpy._core"):  # the name before and since numpy 2
    CALLS |= {f"{_core}.multiarray._reconstruct": Array, f"{_core}.multiarray.scalar": Scalar}
    CALLS[f"{_core}.numeric._frombuffer"] = _from_buffer
