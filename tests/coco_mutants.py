"""A clean COCO file, mutations of it, and a naive reader as the referee: plain `json`, one record at a time."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from chordate.data import CocoDataset
from chordate.errors import DataError

HEIGHT, WIDTH, IMAGES = 60, 80, 4
Objects = dict[str, list[tuple[Any, ...]]]  # by image file: x1, y1, x2, y2, class name, whether it is a crowd


def clean_content() -> dict[str, Any]:
    """Four images with three rectangles each, one per class; the last object is a crowd."""
    annotations = []
    for image in range(1, IMAGES + 1):
        for number, x in enumerate((5, 25, 45), start=1):
            y = 6 + 8 * (image - 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": number,
                    "bbox": [x, y, 15, 12],
                    "area": 180,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + 15, y, x + 15, y + 12, x, y + 12]],
                }
            )
    annotations[-1]["iscrowd"] = 1
    names = {1: "alpha", 2: "beta", 3: "gamma"}
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": name, "supercategory": "thing"} for n, name in names.items()],
    }


def pose_content() -> dict[str, Any]:
    """The clean content with two keypoints per object."""
    content = clean_content()
    for annotation in content["annotations"]:
        x, y = annotation["bbox"][:2]
        annotation |= {"keypoints": [x + 2, y + 3, 2, x + 4, y + 5, 1], "num_keypoints": 2}
    for category in content["categories"]:
        category |= {"keypoints": ["head", "tail"], "skeleton": [[1, 2]]}
    return content


def write_images(root: Path) -> Path:
    """Write `root/images/{1…4}.png`; returns the root."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(1, IMAGES + 1):
        cv2.imwrite(str(root / "images" / f"{number}.png"), np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8))
    return root


def write_content(root: Path, content: Any) -> Path:
    """Write `root/annotations.json`, unchanged if `content` is bytes; returns the root."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / "annotations.json").write_bytes(data)
    return root


def changed(kind: str, rows: slice | int = slice(None), **fields: Any) -> dict[str, Any]:
    """The clean content with `fields` replaced in the records `rows` of the list `kind`.

    A callable value is called with the record, and its result is the new value; the value `...` removes the field.
    """
    content = copy.deepcopy(clean_content())
    records = content[kind]
    for record in records[rows] if isinstance(rows, slice) else [records[rows]]:
        for name, value in fields.items():
            if value is ...:
                del record[name]
            else:
                record[name] = value(record) if callable(value) else value
    return content


def with_top(**more) -> dict:
    return clean_content() | more


def rle_of(record: dict, height: int = HEIGHT, width: int = WIDTH, compressed: bool = True) -> dict:
    """The bounding box of an annotation as an RLE mask of size `height` × `width`."""
    mask = np.zeros((height, width), np.uint8, order="F")
    x, y, w, h = record["bbox"]
    mask[y : y + h, x : x + w] = 1
    if compressed:
        return {"size": [height, width], "counts": rle.encode(mask)["counts"].decode()}
    edges = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0)).tolist()
    return {"size": [height, width], "counts": np.diff([0, *edges, mask.size]).tolist()}


def open_set(root: Path, **settings: Any) -> CocoDataset:
    return CocoDataset("annotations.json", "images", data_root=root, **settings)


def read_all(dataset: CocoDataset) -> Objects:
    """The objects of each image, from the samples of the dataset."""
    objects: Objects = {}
    for index in range(len(dataset)):
        sample = dataset[(0, index)]
        rows = zip(sample["boxes"].tolist(), sample["labels"].tolist(), sample["crowd"].tolist(), strict=True)
        objects.setdefault(Path(sample["info"].path).name, []).extend(
            (*(round(x, 2) for x in box), dataset.classes[label], crowd) for box, label, crowd in rows
        )
    return {file: sorted(rows) for file, rows in objects.items()}


def read_naively(root: Path) -> Objects:
    """The objects of each image, read record by record; raises an exception of any type if the file is invalid."""
    content = json.loads((root / "annotations.json").read_text("utf-8-sig"))
    names = {_key(category["id"]): category["name"] for category in content["categories"]}
    assert all(isinstance(name, str | int) and not isinstance(name, bool) for name in names.values())
    names = {key: str(name) for key, name in names.items()}
    assert len(set(names.values())) == len(content["categories"])
    files = {_key(image["id"]): image for image in content["images"]}
    assert len(files) == len(content["images"]) > 0
    objects: Objects = {Path(image["file_name"].replace("\\", "/")).name: [] for image in files.values()}
    for annotation in content.get("annotations") or []:
        image, name = files[_key(annotation["image_id"])], names[_key(annotation["category_id"])]
        file = Path(image["file_name"].replace("\\", "/")).name
        height, width = cv2.imread(str(root / "images" / file)).shape[:2]
        crowd = {"0": False, "1": True, "None": False}[str(_plain(annotation.get("iscrowd")))]
        box = annotation.get("bbox")
        if not box and box != 0:
            polygons = annotation["segmentation"]
            polygons = [polygons] if isinstance(polygons, list) and not isinstance(polygons[0], list) else polygons
            encoded = rle.frPyObjects(polygons, height, width)
            box = rle.toBbox(rle.merge(encoded) if isinstance(encoded, list) else encoded).tolist()
        assert isinstance(box, list)
        x, y, w, h = (float(side) for side in box if not isinstance(side, bool))
        assert all(map(math.isfinite, (x, y, w, h)))
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if right - left >= 0.01 and bottom - top >= 0.01:
            objects[file].append((*(round(side, 2) for side in (left, top, right, bottom)), name, crowd))
    return {file: sorted(rows) for file, rows in objects.items()}


def _key(value: Any) -> str:
    assert isinstance(value, int | float | str) and not isinstance(value, bool)
    return str(_plain(value)).strip()


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool | float) and value == int(value) else value


def same(one: Objects, other: Objects) -> bool:
    """Whether images, boxes (up to 0.02 px), classes and crowd flags are equal."""
    if one.keys() != other.keys() or any(len(one[file]) != len(other[file]) for file in one):
        return False
    pairs = [pair for file in one for pair in zip(one[file], other[file])]
    return all(a[4:] == b[4:] and np.allclose(a[:4], b[:4], rtol=0, atol=0.02) for a, b in pairs)


def outcome(root: Path, **settings: Any) -> Objects | str:
    """The objects of every image, or the text of the DataError; any other exception is a failure."""
    try:
        return read_all(open_set(root, **settings))
    except DataError as error:
        return str(error)
