"""Writes the panoptic and semantic annotations of the shapes dataset: shapes are things, backgrounds are stuff."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from chordate.data.shapes_colors import BACKGROUNDS

IGNORED_ID = 255  # value of crowd pixels in the label images


class PanopticWriter:
    """Writes the panoptic annotations and the label images of a split.

    COCO's panoptic format: the JSON file `annotations/panoptic_{split}.json`, and PNGs in a folder of the same name.
    Label images: `semantic/{split}/*.png`, whose values are class indices (shapes, then backgrounds) and 255 in crowds.

    Args:
        root: folder of the dataset.
        split: "train" or "val".
        classes: names of the shapes. Category ids are 1, 2, … for the shapes, and continue with the backgrounds.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str]):
        self.path = root / "annotations" / f"panoptic_{split}.json"
        self.labels = root / "semantic" / split
        for folder in (self.path.with_suffix(""), self.labels):
            folder.mkdir(parents=True, exist_ok=True)
        self.things = len(classes)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        named = [*((name, 1) for name in classes), *((name, 0) for name in BACKGROUNDS)]
        self.categories = [{"id": n, "name": name, "isthing": thing} for n, (name, thing) in enumerate(named, 1)]

    def add(
        self, image: dict[str, Any], objects: Sequence[dict[str, Any]], owner: NDArray[np.int64], background: int
    ) -> None:
        """Write the PNGs of one image, and keep its entries for the JSON file.

        Args:
            image: COCO's record of the image.
            objects: the annotations of the image's shapes.
            owner: `[size, size]`, number of the object at each pixel, from 1; 0 for the background.
            background: index into BACKGROUNDS.
        """
        owner = owner.copy()
        for number, annotation in enumerate(objects, 1):
            if annotation["iscrowd"]:  # the annotated region of a crowd includes the gaps between its members
                owner[(owner == 0) & (rle.decode(annotation["segmentation"]) > 0)] = number
        categories = [self.things + background + 1, *(annotation["category_id"] for annotation in objects)]
        crowd = [0, *(annotation["iscrowd"] for annotation in objects)]
        ids = np.array([1000 * category + number for number, category in enumerate(categories)])
        name = f"{Path(image['file_name']).stem}.png"
        colors = ids[owner, None] // np.array([65536, 256, 1]) % 256  # OpenCV's order is B, G, R
        cv2.imwrite(str(self.path.with_suffix("") / name), colors.astype(np.uint8))
        labels = np.where(crowd, IGNORED_ID, np.array(categories) - 1)
        cv2.imwrite(str(self.labels / name), labels[owner].astype(np.uint8))
        areas = np.bincount(owner.flatten(), minlength=len(ids)).tolist()
        segments = [
            {"id": own, "category_id": category, "area": area, "iscrowd": group}
            for own, category, area, group in zip(ids.tolist(), categories, areas, crowd)
            if area
        ]
        self.images.append(image)
        self.annotations.append({"image_id": image["id"], "file_name": name, "segments_info": segments})

    def write(self) -> None:
        """Write the JSON file."""
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        self.path.write_text(json.dumps(content))
