"""Converts a COCO dataset to Pascal VOC's and YOLO's formats, with the same images and boxes, but without crowds."""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any


def read(coco: Path, split: str) -> tuple[dict[int, dict[str, Any]], dict[int, list[Any]], dict[int, str]]:
    """Images keyed by id, non-crowd annotations grouped by image id, class names keyed by category id."""
    content = json.loads((coco / f"annotations/{split}.json").read_text())
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            by_image[annotation["image_id"]].append(annotation)
    names = {category["id"]: category["name"] for category in content["categories"]}
    return {image["id"]: image for image in content["images"]}, by_image, names


def write_voc(coco: Path, root: Path) -> None:
    """Write `Annotations/`, `JPEGImages/` and `ImageSets/Main/`; box corners are 1-based, inclusive pixel indices."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        images, annotations, names = read(coco, split)
        stems = []
        for number, image in images.items():
            stem = f"{split}_{Path(image['file_name']).stem}"
            shutil.copy(coco / split / image["file_name"], root / "JPEGImages" / f"{stem}.jpg")
            objects = ""
            for annotation in annotations[number]:
                x, y, w, h = annotation["bbox"]
                corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h))
                box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
                objects += f"<object><name>{names[annotation['category_id']]}</name><bndbox>{box}</bndbox></object>"
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
            text = f"<annotation><filename>{stem}.jpg</filename>{size}{objects}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(text)
            stems.append(stem)
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")


def write_yolo(coco: Path, root: Path) -> None:
    """Write `images/<split>/`, `labels/<split>/` and `data.yaml`; boxes are normalized center, width and height."""
    for split in ("train", "val"):
        images, annotations, names = read(coco, split)
        shutil.copytree(coco / split, root / "images" / split)
        (root / "labels" / split).mkdir(parents=True)
        order = list(names)
        for number, image in images.items():
            lines = []
            for annotation in annotations[number]:
                x, y, w, h = annotation["bbox"]
                width, height = image["width"], image["height"]
                numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines.append(f"{order.index(annotation['category_id'])} {' '.join(map(repr, numbers))}")
            (root / "labels" / split / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(lines))
    folders = "train: images/train\nval: images/val\n"
    (root / "data.yaml").write_text(f"{folders}names: [{', '.join(names.values())}]\n")
