"""A COCO-format dataset of a few images, for tests with hand-written annotations."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def annotation(id: int, image: int, box: list[float], category: int = 3, **more: Any) -> dict[str, Any]:
    return {"id": id, "image_id": image, "category_id": category, "bbox": box, "area": 1.0, "iscrowd": 0, **more}


def write_coco(
    root: Path,
    annotations: list[dict[str, Any]],
    *,
    sizes: tuple[tuple[int, int], ...] = ((60, 80), (80, 60)),
    **replaced: Any,
) -> Path:
    """Write `root/annotations.json` and `root/images/{1,2,…}.png` of `sizes` (height, width); returns the root.

    `replaced` overrides top-level entries of the JSON file, such as `categories`.
    """
    (root / "images").mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    images = []
    for number, (height, width) in enumerate(sizes, start=1):
        picture = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "images" / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES, **replaced}
    (root / "annotations.json").write_text(json.dumps(content))
    return root
