"""Seeded mutations of a panoptic JSON file and its PNGs, and a naive reader as the reference for what they contain."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from naive_coco import identity, number
from PIL import Image

HEIGHT, WIDTH, IMAGES = 12, 16, 3
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, 7, -1, 0.5, 1.0, 256**3, 2**31, 2**63, 10**30, float("nan"), "", "1", "x", "ä",
    "1.png", "1.jpg", "2.png", "no.png", [], [1], [1, 2, 3], [300, 0, 0], {}, {"id": 1},
]  # fmt: skip
FIELDS = {
    "images": ["id", "file_name", "width", "height"],
    "annotations": ["image_id", "file_name", "segments_info"],
    "segments": ["id", "category_id", "iscrowd", "area", "bbox"],
    "categories": ["id", "name", "isthing", "color", "supercategory"],
}
# The sorted segments of each image file: class name, whether the class is a thing, whether the segment is a crowd, and
# its mask as bytes.
Segments = dict[str, list[tuple[str, bool, bool, bytes]]]


class Refused(Exception):
    """Raised by the naive reader for invalid files, which the package must reject."""


def write_clean(root: Path, rng: random.Random) -> dict[str, Any]:
    """Write images, and PNGs with rectangular segments; returns the content of the JSON file, which is not written."""
    annotations = []
    for folder in ("images", "segments"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image in range(1, IMAGES + 1):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * image, 0, 0)).save(root / f"images/{image}.jpg")
        ids = np.zeros((HEIGHT, WIDTH), np.int64)
        segments = []
        for place in range(rng.randint(1, 4)):
            own, category = rng.choice((place + 1, 1000 * (place + 1), 70000 + place)), rng.randint(1, 4)
            if own in ids or (category > 2 and any(segment["category_id"] == category for segment in segments)):
                continue
            x = 4 * place
            ids[rng.randint(0, 5) : rng.randint(7, HEIGHT), x : x + 4] = own
            segments.append({"id": own, "category_id": category, "iscrowd": int(rng.random() < 0.2), "area": 9})
        write_ids(root / f"segments/{image}.png", ids)
        annotations.append({"image_id": image, "file_name": f"{image}.png", "segments_info": segments})
    sizes = {"width": WIDTH, "height": HEIGHT}
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", **sizes} for n in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": [
            {"id": n, "name": name, "isthing": int(n < 3)}
            for n, name in enumerate(("cat", "dog", "sky", "sea"), start=1)
        ],
    }


def write_ids(path: Path, ids: np.ndarray) -> None:
    channels = [ids % 256, ids // 256 % 256, ids // 65536]
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(path)


def mutate(root: Path, content: dict[str, Any], rng: random.Random) -> None:
    """Mutate the content or the image files up to two times, and write the JSON file, sometimes damaged."""
    for _ in range(rng.randint(0, 2)):
        kind = rng.choice(list(FIELDS))
        segments = [
            segment for record in _dicts(content["annotations"]) for segment in _dicts(record.get("segments_info"))
        ]
        records = segments if kind == "segments" else content[kind]
        if not isinstance(records, list) or not records:
            continue
        record, field = rng.choice(records), rng.choice(FIELDS[kind])
        match rng.choice(("set", "set", "set", "remove", "repeat", "drop", "whole", "paint", "truncate", "text ids")):
            case "set" if isinstance(record, dict):
                record[field] = rng.choice(VALUES)
            case "remove" if isinstance(record, dict):
                record.pop(field, None)
            case "repeat" if kind != "segments":
                records.append(json.loads(json.dumps(record)))
            case "drop" if kind != "segments":
                records.remove(record)
            case "whole" if kind != "segments":
                content[kind] = rng.choice(VALUES)
            case "paint":
                path = root / f"segments/{rng.randint(1, IMAGES)}.png"
                with Image.open(path) as image:
                    pixels = np.array(image)
                pixels[: rng.randint(1, HEIGHT), 4 * rng.randint(0, 3) :][:, :4] = rng.choice((0, 9))
                Image.fromarray(pixels).save(path)
            case "truncate":
                path = root / f"{rng.choice(('segments/1.png', 'images/2.jpg'))}"
                path.write_bytes(path.read_bytes()[: rng.randint(0, 200)])
            case "text ids":
                for one in _dicts(content["images"]):
                    one["id"] = f"image {one.get('id')}"
                for one in _dicts(content["annotations"]):
                    one["image_id"] = f"image {one.get('image_id')}"
    data = json.dumps(content).encode(rng.choice(("utf-8", "utf-8", "utf-8-sig")))
    if rng.random() < 0.1:
        place = rng.randrange(len(data))
        data = data[:place] + (b"" if rng.random() < 0.5 else bytes([rng.randrange(256)]) + data[place + 1 :])
    (root / "panoptic.json").write_bytes(data)


def _dicts(records: Any) -> list[dict[str, Any]]:
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def read_naively(root: Path) -> Segments:
    """Read the segments of each image, record by record.

    Raises:
        Refused: the files are invalid: unreadable, incomplete or contradictory.
    """
    try:
        return _read(root)
    except Refused:
        raise
    except Exception as error:
        raise Refused(str(error)) from error


def _read(root: Path) -> Segments:
    content = json.loads((root / "panoptic.json").read_text("utf-8-sig"))
    categories = _by_id(content["categories"])
    names = [record["name"] for record in categories.values()]
    _require(len(names) == len(set(names)) > 0 and all(isinstance(name, str) and name for name in names))
    images = _by_id(content["images"])
    _require(len(images) > 0 and len(content["annotations"]) == len(images))
    found: Segments = {}
    for record in content["annotations"]:
        image = images[identity(record["image_id"])]
        with Image.open(root / "images" / image["file_name"]) as opened:
            opened.load()
        with Image.open(root / "segments" / record["file_name"]) as opened:
            pixels = np.array(opened).astype(np.int64)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        _require(ids.shape == (HEIGHT, WIDTH) == (number(image["height"]), number(image["width"])))
        segments = _by_id(record["segments_info"])
        _require(set(segments) == set(np.unique(ids).tolist()) - {0})
        rows = []
        for own, segment in segments.items():
            category = categories[identity(segment["category_id"])]
            crowd = False if segment.get("iscrowd") is None else _flag(segment["iscrowd"])
            rows.append((category["name"], _flag(category["isthing"]), crowd, (ids == own).tobytes()))
        _require(image["file_name"] not in found)
        found[image["file_name"]] = sorted(rows)
    return found


def _by_id(records: Any) -> dict[Any, dict[str, Any]]:
    """The records keyed by id; 7, 7.0 and "7" are the same id."""
    found = {identity(record["id"]): record for record in records}
    _require(len(found) == len(records) and None not in found)
    return found


def _flag(value: Any) -> bool:
    _require(value in (0, 1, "0", "1"))
    return value in (1, "1")


def _require(holds: bool) -> None:
    if not holds:
        raise Refused
