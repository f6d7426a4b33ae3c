"""Writes a tiny Cityscapes dataset with panoptic annotations in the layout of cityscapesScripts' createPanopticImgs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIZE = (32, 64)
# The evaluated classes: id, name, whether it is a thing, color. Source: cityscapesScripts' helpers/labels.py.
LABELS = [
    (7, "road", 0, (128, 64, 128)), (8, "sidewalk", 0, (244, 35, 232)), (11, "building", 0, (70, 70, 70)),
    (12, "wall", 0, (102, 102, 156)), (13, "fence", 0, (190, 153, 153)), (17, "pole", 0, (153, 153, 153)),
    (19, "traffic light", 0, (250, 170, 30)), (20, "traffic sign", 0, (220, 220, 0)),
    (21, "vegetation", 0, (107, 142, 35)), (22, "terrain", 0, (152, 251, 152)), (23, "sky", 0, (70, 130, 180)),
    (24, "person", 1, (220, 20, 60)), (25, "rider", 1, (255, 0, 0)), (26, "car", 1, (0, 0, 142)),
    (27, "truck", 1, (0, 0, 70)), (28, "bus", 1, (0, 60, 100)), (31, "train", 1, (0, 80, 100)),
    (32, "motorcycle", 1, (0, 0, 230)), (33, "bicycle", 1, (119, 11, 32)),
]  # fmt: skip
CITIES = {"train": ["aachen_000000_000019", "bremen_000003_000019"], "val": ["munster_000000_000019"]}


def instance_ids(number: int) -> np.ndarray:
    """The pixels of `…_gtFine_instanceIds.png`: the class id, or 1000 × the class id + the number of an instance.

    Sky above the road; the ego vehicle (id 1, not evaluated); two cars; a group of people without instance numbers.
    """
    ids = np.full(SIZE, 23, np.int32)
    ids[14:], ids[29:] = 7, 1
    ids[16:24, 4 + number : 20], ids[18:28, 30:44] = 26000, 26001
    ids[12:20, 50:60] = 24
    return ids


def write_cityscapes(root: Path) -> None:
    """Write leftImg8bit/ and gtFine/ with the JSON files and the PNGs of both splits."""
    categories = [
        {"id": own, "name": name, "color": color, "supercategory": "any", "isthing": thing}
        for own, name, thing, color in LABELS
    ]
    things = {own for own, _, thing, _ in LABELS if thing}
    for split, names in CITIES.items():
        images, annotations = [], []
        pngs = root / f"gtFine/cityscapes_panoptic_{split}"
        pngs.mkdir(parents=True)
        for number, name in enumerate(names):
            ids = instance_ids(number)
            photo = root / f"leftImg8bit/{split}/{name.split('_')[0]}/{name}_leftImg8bit.png"
            photo.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 60, (*SIZE, 3))
            cv2.imwrite(str(photo), (noise + ids[..., None] % 97).astype(np.uint8))
            segments, colors = [], np.zeros((*SIZE, 3), np.uint8)
            for own in np.unique(ids).tolist():
                category = own // 1000 if own >= 1000 else own
                if category not in {row[0] for row in LABELS}:
                    continue
                mask = ids == own
                colors[mask] = own % 256, own // 256, own // 256 // 256
                crowd = int(own < 1000 and category in things)
                area = int(mask.sum())
                segments.append(
                    {"id": own, "category_id": category, "area": area, "bbox": [0, 0, 1, 1], "iscrowd": crowd}
                )
            cv2.imwrite(str(pngs / f"{name}_gtFine_panoptic.png"), colors[..., ::-1])
            # createPanopticImgs writes this file name, …_gtFine_leftImg8bit.png, although no such file exists.
            image = {"id": name, "file_name": f"{name}_gtFine_leftImg8bit.png", "height": SIZE[0], "width": SIZE[1]}
            images.append(image)
            record = {"image_id": name, "file_name": f"{name}_gtFine_panoptic.png", "segments_info": segments}
            annotations.append(record)
        content = {"images": images, "annotations": annotations, "categories": categories}
        pngs.with_suffix(".json").write_text(json.dumps(content, sort_keys=True, indent=4))
