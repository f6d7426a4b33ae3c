"""Loads the records of an opened annotation file in blocks, to limit memory."""

from collections.abc import Callable, Iterator
from typing import Any

import hotcoco

BLOCK = 10_000  # records that are loaded at a time

Record = dict[str, Any]


def load_images(index: hotcoco.COCO, ids: list[int] | None = None) -> Iterator[Record]:
    """The records of the images `ids`, in this order; None loads all images."""
    return _in_blocks(index.load_imgs, index.get_img_ids() if ids is None else ids)


def load_annotations(index: hotcoco.COCO, ids: list[int] | None = None) -> Iterator[Record]:
    """The records of the annotations `ids`, in this order; None loads all annotations."""
    return _in_blocks(index.load_anns, index.get_ann_ids() if ids is None else ids)


def _in_blocks(load: Callable[[list[int]], list[Record]], ids: list[int]) -> Iterator[Record]:
    for start in range(0, len(ids), BLOCK):
        yield from load(ids[start : start + BLOCK])
