"""Matches a checkpoint's per-class outputs to those of a model with other classes, by class name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from chordate.head_contracts import ClassRows, HasClassRows
from chordate.model_contracts import Model
from chordate.structures import DatasetMeta
from chordate.structures.metadata import numbered_names
from chordate.weights.load_report import abbreviate


@dataclass(frozen=True)
class AdaptedRows:
    """A tensor for the model, with some rows from the checkpoint.

    Attributes:
        tensor: has the model's shape.
        note: number and names of the rows from the checkpoint, for the report.
    """

    tensor: Tensor
    note: str


class RowMatcher:
    """Copies the weights of classes that a checkpoint and the model both have; other classes keep the model's weights.

    Args:
        model: the model; `class_rows` of its modules lists the layers with outputs per class.
        meta: metadata of the checkpoint; if None (unknown), only the background's weights are copied.
    """

    def __init__(self, model: nn.Module, meta: DatasetMeta | None):
        self._layouts = _find_layouts(model)
        self._theirs = meta or DatasetMeta()
        self._ours = model.meta if isinstance(model, Model) else DatasetMeta()

    def is_reordered(self, name: str) -> bool:
        """Whether the tensor `name` has outputs per class, and model and checkpoint have different names for them."""
        if name not in self._layouts:
            return False
        theirs, ours = self._names(self._layouts[name][0])
        return bool(theirs and ours and theirs != ours)

    def adapt(self, name: str, theirs: Tensor, ours: Tensor) -> AdaptedRows | None:
        """Copy `ours`, and replace the rows of the background and of classes with the same name by those of `theirs`.

        Returns:
            None if there are no such rows, or the shapes do not fit.
        """
        if name not in self._layouts or theirs.dim() != ours.dim():
            return None
        layout, dim = self._layouts[name]
        result = ours.detach().clone()
        into, source = _by_class(result, layout, dim), _by_class(theirs.detach(), layout, dim)
        if into is None or source is None or into.shape[3:] != source.shape[3:]:
            return None
        their_names, our_names = self._names(layout)
        counts = [rows.shape[1] - layout.background for rows in (source, into)]
        pairs = _match_rows(their_names, our_names) if (len(their_names), len(our_names)) == tuple(counts) else {}
        kept = {**pairs, **{counts[0] + number: counts[1] + number for number in range(layout.background)}}
        if not kept:
            return None
        into[:, list(kept.values())] = source[:, list(kept)].to(into)
        which = abbreviate([their_names[row] for row in pairs]) or "only the background"
        note = f"{len(pairs)} of {counts[1]} {layout.names} by name: {which}"
        return AdaptedRows(result, note)

    def _names(self, layout: ClassRows) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return row_names(self._theirs, layout.names), row_names(self._ours, layout.names)


def row_names(meta: DatasetMeta, kind: str) -> tuple[str, ...]:
    """Names of the outputs in order; empty if the outputs have no names. `kind` is a value of `ClassRows.names`."""
    per_class = {"classes": meta.classes, "things": meta.things, "things and stuff": ("things", *meta.stuff)}
    if kind in per_class:
        return per_class[kind] if has_names(meta) else ()
    if kind == "keypoints":
        return meta.skeleton.names if meta.skeleton else ()
    names = meta.extra.get(kind)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def has_names(meta: DatasetMeta) -> bool:
    """Whether the classes have names, not only numbers."""
    return meta.classes != numbered_names(len(meta.classes))


def _find_layouts(model: nn.Module) -> dict[str, tuple[ClassRows, int]]:
    """Mapping from the name of each tensor with outputs per class to the layout and the dimension of the outputs."""
    layouts = {}
    names = list(model.state_dict())
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if not isinstance(module, HasClassRows):
            continue
        for key, layout in module.class_rows.items():
            full = f"{path}.{key}" if path else key
            layer = modules.get(full)
            for name in names:
                if name == full or name.startswith(f"{full}."):
                    transposed = isinstance(layer, _ConvTransposeNd) and name == f"{full}.weight"
                    layouts[name] = (layout, 1 if transposed else 0)
    return layouts


def _by_class(tensor: Tensor, layout: ClassRows, dim: int) -> Tensor | None:
    """View a tensor as `[anchors, classes + background, values, …]`; None if its size does not allow that."""
    rows = tensor.movedim(dim, 0) if dim < tensor.dim() else tensor
    if rows.dim() == 0 or not len(rows) or len(rows) % (layout.anchors * layout.values):
        return None
    view = rows.unflatten(0, (layout.anchors, -1, layout.values))
    return view if view.shape[1] > layout.background else None


def _match_rows(theirs: tuple[str, ...], ours: tuple[str, ...]) -> dict[int, int]:
    """Map the checkpoint's rows to the model's rows with the same names, if these are unique in both."""
    unique = [{name for name, count in Counter(names).items() if count == 1} for names in (theirs, ours)]
    rows = {name: row for row, name in enumerate(ours)}
    return {row: rows[name] for row, name in enumerate(theirs) if name in unique[0] & unique[1]}
