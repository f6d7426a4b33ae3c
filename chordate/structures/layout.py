"""Layout: annotates a tensor field of a TensorStruct with its shape and data type, and checks tensors against it."""

from __future__ import annotations

from typing import Annotated, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from chordate.errors import DataError
from chordate.structures.batch import TensorStruct


class Layout:
    """Shape and data type of a tensor field: `labels: Annotated[Tensor, Layout("N", "G", dtype=torch.int64)]`.

    Args:
        dims: size or name of each dimension; dimensions with the same name must have the same size in all tensors of a
            structure.
        dtype: data type of the values.
    """

    def __init__(self, *dims: int | str, dtype: torch.dtype):
        self.dims, self.dtype = dims, dtype

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.dims))}] {_name(self.dtype)}"

    def fits(self, tensor: Tensor, sizes: dict[str, int]) -> bool:
        """Whether a tensor has this layout. `sizes` maps dimension names to known sizes; new names are added."""
        if tensor.dtype != self.dtype or tensor.ndim != len(self.dims):
            return False
        pairs = zip(self.dims, tensor.shape)
        return all(size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim) for dim, size in pairs)


def layouts_of(kind: type[TensorStruct]) -> dict[str, Layout]:
    """The layouts in the annotations of a structure's class: a dict from field name to Layout."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError:  # a name in an annotation is imported only under TYPE_CHECKING
        return {}
    layouts = {}
    for name, hint in hints.items():
        for part in (hint, *get_args(hint)):  # also look inside optional fields, `Annotated[…] | None`
            for item in get_args(part) if get_origin(part) is Annotated else ():
                if isinstance(item, Layout):
                    layouts[name] = item
    return layouts


def check_layouts(struct: TensorStruct, where: str, **sizes: int) -> None:
    """Check the tensors of a structure against the layouts in its class's annotations.

    Args:
        struct: the structure; tensors that are None are skipped.
        where: origin of the structure, such as the dataset's name, for the message.
        sizes: dimension names with known sizes, e.g. `N=2`.

    Raises:
        DataError: a tensor's shape or data type differs from its layout; the message shows both.
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
