"""Converts bitmaps to COCO's RLE, and to polygons along pixel borders that rasterize to the same bitmap."""

from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
    if not isinstance(segmentation, Mapping):
        return
    where, given = f"{source}: the RLE of annotation {annotation.get('id')}", segmentation.get("size")
    if not isinstance(given, list | tuple) or list(given) != list(size):
        raise DataError(f"{where} has the size {given}, but its image has {list(size)} (height, width)")
    try:
        runs = run_lengths(segmentation.get("counts"))
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where} has invalid counts ({error})") from error
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise DataError(f"{where} has counts for {runs.sum()} pixels, but its image has {size[0] * size[1]}")


def run_lengths(counts: Any) -> NDArray[np.int64]:
    """The lengths of the runs of an RLE's `counts`: a list of lengths, or COCO's compressed string.

    The string has 5 bits of a number per character, least significant first; bit 5 tells that another character
    follows. From the fourth number on, numbers are differences from the number two before
    (github.com/cocodataset/cocoapi, common/maskApi.c, rleFrString).

    Raises:
        ValueError: `counts` is neither.
    """
    if isinstance(counts, list) and all(type(count) is int for count in counts):
        return np.array(counts, np.int64)
    if not isinstance(counts, str | bytes):
        raise ValueError(f"expected a list of integers or a string, got {type(counts).__name__}")
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or ends[-1:] != len(codes) - 1:
        raise ValueError("not COCO's compressed RLE, or truncated")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError("a run is longer than 32 bits")
    place = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((codes & 31) << place, starts) - ((codes[ends] & 16) > 0) * (1 << 5 * lengths)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def mask_rings(mask: NDArray[np.uint8]) -> list[Ring]:
    """The contours of a 0/1 mask `[H, W]` as polygons: outer contours clockwise, holes counter-clockwise.

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
