"""Small files of COCO's panoptic format, and the dataset that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from chordate.data import CocoPanoptic

CATEGORIES = [
    {"id": 9, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
    {"id": 4, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    {"id": 70, "name": "grass", "isthing": 0, "color": [0, 255, 0]},
    {"id": 12, "name": "dog", "isthing": 1, "color": [255, 255, 0]},
]


NAMES = ("cat", "dog", "sky", "grass")


# Segment id, category id, crowd, and the rows and columns of the segment. Later segments cover earlier ones.
SEGMENTS = [
    (70_000, 9, 0, slice(2, 20), slice(0, 40)),
    (300, 70, 0, slice(20, 32), slice(0, 40)),
    (5, 4, 0, slice(6, 16), slice(4, 12)),
    (16_000_001, 12, 0, slice(10, 25), slice(10, 30)),
    (6, 4, 1, slice(0, 9), slice(30, 38)),
]


def write_panoptic(root: Path, count: int = 2) -> dict:
    """Write images of 32×40 pixels that have the same segments with different ids. Rows 0 and 1 have no segment except
    a crowd."""
    for folder in ("images", "panoptic"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        ids = np.zeros((32, 40), np.int64)
        for own, _, _, rows, columns in SEGMENTS:
            ids[rows, columns] = own + number
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        cv2.imwrite(str(root / f"panoptic/{number}.png"), colors[..., ::-1])
        noise = np.random.default_rng(number).integers(0, 256, (32, 40, 3), np.uint8)
        cv2.imwrite(str(root / f"images/{number}.jpg"), noise)
        images.append({"id": 50 - number, "file_name": f"{number}.jpg", "height": 32, "width": 40})
        segments = [{"id": own + number, "category_id": c, "iscrowd": crowd} for own, c, crowd, *_ in SEGMENTS]
        annotations.append({"image_id": 50 - number, "file_name": f"{number}.png", "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "panoptic.json").write_text(json.dumps(content))
    return content


def reader(root: Path, **settings) -> CocoPanoptic:
    return CocoPanoptic("panoptic.json", "images", data_root=root, **settings)


def edit(root: Path, change) -> None:
    content = json.loads((root / "panoptic.json").read_text())
    change(content)
    (root / "panoptic.json").write_text(json.dumps(content))
