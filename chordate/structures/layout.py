"""Layout: shape and type of a tensor in a TensorStruct, written beside its name and checked on demand."""

from __future__ import annotations

from typing import Annotated, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from chordate.errors import DataError
from chordate.structures.batch import TensorStruct


class Layout:
    """Shape and type of a tensor: `labels: Annotated[Tensor, Layout("N", "G", dtype=torch.int64)]`.

    Args:
        dims: a number, or a name; dimensions of one name are equal in all tensors of a structure.
        dtype: of the values.
    """

    def __init__(self, *dims: int | str, dtype: torch.dtype):
        self.dims, self.dtype = dims, dtype

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.dims))}] {_name(self.dtype)}"

    def fits(self, tensor: Tensor, sizes: dict[str, int]) -> bool:
        """Whether a tensor has this layout, given the `sizes` of names, to which those of new names are added."""
        if tensor.dtype != self.dtype or tensor.ndim != len(self.dims):
            return False
        pairs = zip(self.dims, tensor.shape)
        return all(size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim) for dim, size in pairs)


def layouts_of(kind: type[TensorStruct]) -> dict[str, Layout]:
    """The layouts that a structure states, by field."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError:  # names that only type checkers know
        return {}
    layouts = {}
    for name, hint in hints.items():
        for part in (hint, *get_args(hint)):  # a field may be `Annotated[…] | None`
            for item in get_args(part) if get_origin(part) is Annotated else ():
                if isinstance(item, Layout):
                    layouts[name] = item
    return layouts


def check_layouts(struct: TensorStruct, where: str, **sizes: int) -> None:
    """Check the tensors of a structure against the layouts that its class states.

    Args:
        struct: some tensors may be None.
        where: what the structure is of, for the message.
        sizes: of names in the layouts that are known.

    Raises:
        DataError: one has another shape or type; names it and says what is wanted.
    """
    values = vars(struct)
    for name, layout in layouts_of(type(struct)).items():
        value = values[name]
        if value is None:
            continue
        if not isinstance(value, Tensor) or not layout.fits(value, sizes):
            got = f"{list(value.shape)} {_name(value.dtype)}" if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{where}: {type(struct).__name__}.{name} must be {layout}, got {got}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
