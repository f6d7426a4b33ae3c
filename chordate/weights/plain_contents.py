"""Copies the result of `torch.load` to plain dicts, lists and tensors, within limits on depth, number and memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chordate.errors import CheckpointError
from chordate.text import printable

MAX_CHECKPOINT_DEPTH = 32  # limit on the levels of nested dicts and lists; our own checkpoints have 7
MAX_REPEATED = 100_000  # limit on values in repeated dicts and lists; nested repetitions multiply, even in a small file
MAX_COPIES = 4  # limit on tensor bytes per byte of the file; above 1, since tensors may share or repeat memory
SPARE_BYTES = 1 << 20

_DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is an array of numbers in memory: not sparse, nested, quantized or on the meta device, and not
    of a packed data type."""
    is_array = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
    return is_array and tensor.dtype in _DTYPES


class PlainCopy:
    """Copies the contents of one checkpoint.

    A pickle can give objects attributes that hide their methods (`items` of an OrderedDict, `numel` of a Tensor); the
    copies do not have them. Tensors that are not dense are not copied.

    Args:
        source: path of the checkpoint, for messages.
        size: size of the file in bytes.
    """

    def __init__(self, source: str, size: int):
        self.source = source
        self._bytes, self._repeated = MAX_COPIES * size + SPARE_BYTES, 0
        self._seen: set[int] = set()
        self._storages: dict[int, int] = {}

    def check_storages(self, sizes: list[int]) -> None:
        """Check the sizes of the storages that have been copied against the members of the zip file.

        Args:
            sizes: number of bytes of the members with tensors, in the order of the file.

        Raises:
            CheckpointError: a storage is larger or smaller than its member, or has no member.
        """
        claimed = [size for _, size in sorted(self._storages.items()) if size]
        if len(claimed) > len(sizes) or (len(claimed) == len(sizes) and claimed != sizes):
            raise CheckpointError(f"{self.source} is damaged: the sizes of its tensors and of its zip members differ")

    def __call__(self, value: Any, path: tuple[Any, ...] = ()) -> Any:
        """Copy a value; `path` consists of the keys that lead to the value.

        Raises:
            CheckpointError: the contents exceed a limit.
        """
        if isinstance(value, dict | list | tuple):
            if id(value) in self._seen:
                self._repeated += len(value)
            self._seen.add(id(value))
            if len(path) > MAX_CHECKPOINT_DEPTH or self._repeated > MAX_REPEATED:
                raise CheckpointError(
                    f"{self.source} has no weights that can be read: its dicts and lists contain themselves, or are "
                    f"nested more than {MAX_CHECKPOINT_DEPTH} levels deep"
                )
        if isinstance(value, dict):
            return {key: self(item, (*path, key)) for key, item in dict.items(value)}
        if isinstance(value, list | tuple):
            items = [self(item, (*path, index)) for index, item in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        return self._tensor(value, path) if type(value) in (Tensor, nn.Parameter) else value

    def _tensor(self, value: Tensor, path: tuple[Any, ...]) -> Tensor:
        tensor = Tensor.detach(value)
        if not is_dense(tensor):
            return tensor
        claimed, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        self._bytes -= claimed
        if self._bytes < 0:
            name, shape = printable(".".join(map(str, path)), 160), list(tensor.shape)
            raise CheckpointError(
                f"{self.source}: {name} {shape} claims {claimed:,} bytes, far more than the file has; save a "
                f"contiguous copy of the tensor"
            )
        return tensor.clone()
