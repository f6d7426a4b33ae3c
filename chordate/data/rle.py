"""Converts bitmaps to COCO's RLE, and to polygons along pixel borders that rasterize to the same bitmap."""

from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from chordate.data.coco_geometry import parse_rle
from chordate.data.file_ids import id_in_file
from chordate.data.findings import name_annotation
from chordate.data.polygons import Ring
from chordate.errors import DataError


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Encode `[D, H, W]` bool masks as COCO's compressed RLE: dicts with `size` (height, width) and `counts` (str)."""
    if not len(masks):
        return []
    encoded = hotcoco.mask.encode(masks.cpu().numpy().transpose(1, 2, 0))
    return [{"size": list(one["size"]), "counts": one["counts"].decode()} for one in encoded]


def check_rle(annotation: Mapping[str, Any], size: Sequence[int], source: str) -> None:
    """Check that the RLE of an annotation, if it has one, describes a mask of `size` (height, width).

    hotcoco allocates a mask of the RLE's own size, and ends the process if there is not enough memory; pycocotools
    reads past the end of counts that are too short.

    Raises:
        DataError: the RLE has another size, or its counts are invalid or do not add up to the number of pixels; the
            message names `source` and the annotation.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        _, problem = parse_rle(segmentation, size[0], size[1])
        if problem:
            raise DataError(f"{source}: the RLE of {name_annotation(id_in_file(annotation))} has {problem}")


def mask_rings(mask: NDArray[np.uint8]) -> list[Ring]:
    """The contours of a 0/1 mask `[H, W]` as polygons: outer contours clockwise, holes counterclockwise.

    The pixels with value 1 lie to the right of every contour. Straight edges are chained at their end points; if two
    contours touch at a corner, both ways of chaining the edges result in the same winding numbers.
    """
    mask = mask.astype(np.int8)
    width = mask.shape[1] + 1
    row, left, right, below = _pieces(np.diff(np.pad(mask, ((1, 1), (0, 0))), axis=0))
    along_x = np.where(below > 0, (left, right), (right, left))  # [start, end]: an upper border runs to the right
    column, top, bottom, beyond = _pieces(np.diff(np.pad(mask, ((0, 0), (1, 1))), axis=1).T)
    along_y = np.where(beyond < 0, (top, bottom), (bottom, top))  # [start, end]: a right border runs down
    to_y = _joined(row * width + along_x[1], along_y[0] * width + column)
    to_x = _joined(along_y[1] * width + column, row * width + along_x[0])
    following = to_x[to_y].tolist()
    points = np.stack([along_x, np.stack([row, row])], -1).astype(np.float32)  # [2 (start, end), edges, 2 (x, y)]
    rings, seen = [], [False] * len(following)
    for first in range(len(following)):
        ring, piece = [], first
        while not seen[piece]:
            seen[piece] = True
            ring.append(piece)
            piece = following[piece]
        if ring:
            rings.append(points[:, ring].transpose(1, 0, 2).reshape(-1, 2))
    return rings


def _pieces(border: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Find the maximal runs of equal non-zero values in each row; returns row, begin, end and value of each run."""
    padded = np.pad(border, ((0, 0), (1, 1)))
    change = np.diff(padded, axis=1) != 0
    row, begin = np.nonzero(change & (padded[:, 1:] != 0))
    end = np.nonzero(change & (padded[:, :-1] != 0))[1]
    return row, begin, end, border[row, begin]


def _joined(ends: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each end point of an edge, the index of an edge that begins there."""
    following = np.empty_like(ends)
    following[np.argsort(ends, kind="stable")] = np.argsort(begins, kind="stable")
    return following
