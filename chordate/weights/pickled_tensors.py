"""Replaces PyTorch's own functions for unpickling tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chordate.weights.plain_contents import DTYPES
from chordate.weights.restricted_pickle import MAX_DIMENSIONS, Unread

_STORAGES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Bool": torch.bool, "Byte": torch.uint8,
    "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64,
}  # fmt: skip
_STORAGE_TYPES = {f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()}
_STORAGE_TYPES["torch.storage.UntypedStorage"] = torch.uint8
_DTYPES = {str(dtype): dtype for dtype in DTYPES}


class Storage(Unread):
    """The elements of one or several tensors.

    Args:
        kind: the storage's class in the pickle.
        key: identifies the storage.
        length: number of elements.

    Attributes:
        dtype: data type; None for quantized tensors and other unusual types.
        data: the bytes `[N]`; None until they are read.
    """

    def __init__(self, kind: Any, key: Any, length: Any):
        if not (isinstance(kind, Unread) and isinstance(key, str) and type(length) is int):
            raise ValueError("the type, key or length of a storage is missing or invalid")
        super().__init__(kind.name)
        self.dtype, self.key, self.length = _STORAGE_TYPES.get(kind.name), key, length
        self.data: Tensor | None = None

    def check(self, size: int) -> None:
        """Check that the file has the right number of bytes, `size`, for this storage.

        Raises:
            ValueError: according to the pickle, the storage has another number of bytes.
        """
        if self.dtype is not None and self.length * self.dtype.itemsize != size:
            raise ValueError("the length of a storage does not match its number of bytes")


class StoredTensor(Unread):
    """A tensor; its arguments are those of `torch._utils._rebuild_tensor_v2`."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any):
        super().__init__("torch.Tensor")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        metadata = rest[2] if len(rest) > 2 else None  # marks lazily conjugated or negated elements
        self.dtype = storage.dtype if isinstance(storage, Storage) and not metadata else None

    def value(self) -> Tensor:
        """The tensor, a view of the storage's bytes; NOT_DENSE if its data type or bytes are unknown.

        Raises:
            ValueError: the tensor's size is invalid, or it does not fit into its storage.
        """
        if self.dtype is None or self.storage.data is None:
            return NOT_DENSE
        if not isinstance(self.size, tuple) or len(self.size) > MAX_DIMENSIONS:
            raise ValueError("a tensor's size is not a tuple, or has too many dimensions")
        try:
            return self.storage.data.view(self.dtype).as_strided(self.size, self.stride, self.offset)
        except (RuntimeError, TypeError) as error:
            raise ValueError("a tensor's size, strides and offset do not fit its storage") from error


class _NotDense(Unread):
    """A sparse, nested, quantized or meta tensor, or a wrapper subclass. Its elements are not read."""

    def value(self) -> Tensor:
        return NOT_DENSE


NOT_DENSE = torch.empty(0, device="meta")


def _with_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Any:
    tensor = StoredTensor(storage, offset, size, stride, grad, hooks, *rest)
    tensor.dtype = tensor.dtype and _DTYPES.get(dtype.name)
    return tensor


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _subclass(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    return CALLS[function.name](*arguments)


def _size(sides: Any) -> Any:
    return sides


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": StoredTensor,
    "torch._utils._rebuild_tensor_v2": StoredTensor,
    "torch._utils._rebuild_tensor_v3": _with_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    **{
        f"torch._utils._rebuild_{kind}": lambda *_: _NotDense("torch.Tensor")
        for kind in ("qtensor", "sparse_tensor", "nested_tensor", "meta_tensor_no_storage", "wrapper_subclass")
    },
    "torch.serialization._get_layout": lambda *_: None,
}
