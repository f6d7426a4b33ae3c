"""Copies the contents of a pickle to plain dicts, lists and tensors, within limits on depth, repetition and memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chordate.errors import CheckpointError
from chordate.text import printable
from chordate.weights.restricted_pickle import Unread

MAX_CHECKPOINT_DEPTH = 32  # limit on the levels of nested dicts and lists; our own checkpoints have 7
MAX_REPEATED = 100_000  # limit on values in dicts and lists that are referenced repeatedly; if nested, they multiply
MAX_COPIES = 4  # limit on tensor bytes per byte of the file; above 1, since tensors may share or repeat memory
SPARE_BYTES = 1 << 20

DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is an array of numbers in memory: not sparse, nested, quantized or on the meta device, and of
    a data type in DTYPES."""
    is_array = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
    return is_array and tensor.dtype in DTYPES


class PlainCopy:
    """Copies the contents of one checkpoint, and replaces the unpickler's placeholders (`Unread`) by their values:
    tensors, numbers or None.

    Args:
        source: path of the checkpoint, for messages.
        size: size of the file in bytes.

    Attributes:
        num_tensors: number of tensors that have been copied.
    """

    def __init__(self, source: str, size: int):
        self.source = source
        self._bytes, self._repeated = MAX_COPIES * size + SPARE_BYTES, 0
        self._seen: set[int] = set()
        self.num_tensors = 0

    def __call__(self, value: Any, path: tuple[Any, ...] = ()) -> Any:
        """Copy a value; `path` consists of the keys that lead to the value.

        Raises:
            CheckpointError: the contents exceed a limit, or an object is damaged.
        """
        if isinstance(value, Unread):
            try:
                value = value.value()
            except ValueError as error:
                raise CheckpointError(f"{self.source}: {_name(path)} cannot be read: {error}") from error
        if isinstance(value, dict | list | tuple):
            if id(value) in self._seen:
                self._repeated += len(value)
            self._seen.add(id(value))
            if len(path) > MAX_CHECKPOINT_DEPTH or self._repeated > MAX_REPEATED:
                raise CheckpointError(
                    f"{self.source} has no weights that can be read: its dicts and lists contain themselves, are "
                    f"referenced too often, or are nested more than {MAX_CHECKPOINT_DEPTH} levels deep"
                )
        if isinstance(value, dict):
            return {key: self(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self(item, (*path, index)) for index, item in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        return self._tensor(value, path) if isinstance(value, Tensor) else value

    def _tensor(self, tensor: Tensor, path: tuple[Any, ...]) -> Tensor:
        self.num_tensors += 1
        if not is_dense(tensor):
            return tensor
        claimed = tensor.numel() * tensor.element_size()
        self._bytes -= claimed
        if self._bytes < 0:
            raise CheckpointError(
                f"{self.source}: with {_name(path)} {list(tensor.shape)} ({claimed:,} bytes), its tensors have far "
                f"more bytes than the file; save contiguous copies of the tensors"
            )
        return tensor.clone()


def _name(path: tuple[Any, ...]) -> str:
    return printable(".".join(map(str, path)), 160)
