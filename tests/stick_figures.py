"""Generates a small COCO-format dataset of stick figures with three keypoints, for tests of pose estimation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NAMES = ["head", "left_hand", "right_hand"]
CATEGORIES = [{"id": 5, "name": "figure", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}]
HEIGHT, WIDTH = 90, 120


def write_figures(root: Path, *, images: int = 6, seed: int = 0) -> dict[str, Any]:
    """Write `root/figures.json` and `root/images/…png`, two figures per image; return the content of the JSON file.

    The head is a white disk at the top; the hands are gray disks below. In the image, the left hand is to the right of
    the head, as for a person who faces the camera. Coordinates are pixel indices, as in COCO.
    """
    random = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    records, annotations = [], []
    for number in range(1, images + 1):
        picture = random.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for side in (0, 1):
            x, y = side * 60 + random.integers(26, 33), random.integers(20, 30)
            reach, drop = random.integers(12, 18, 2), random.integers(15, 35, 2)
            points = [(x, y), (x + reach[0], y + drop[0]), (x - reach[1], y + drop[1])]
            for point, color in zip(points, ((255, 255, 255), (150, 150, 150), (150, 150, 150))):
                cv2.circle(picture, (int(point[0]), int(point[1])), 4, color, -1)
            corner = np.array([points[2][0] - 6, y - 6])
            far = np.array([points[1][0] + 6, max(points[1][1], points[2][1]) + 6])
            box = [*corner.tolist(), *(far - corner).tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": 10 * number, "category_id": 5, "iscrowd": 0, "bbox": box,
                    "area": float(box[2] * box[3]), "num_keypoints": 3,
                    "keypoints": [int(value) for point in points for value in (*point, 2)],
                }
            )  # fmt: skip
        cv2.imwrite(str(root / f"images/{number}.png"), picture)
        records.append({"id": 10 * number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
    content = {"images": records, "annotations": annotations, "categories": CATEGORIES}
    (root / "figures.json").write_text(json.dumps(content))
    return content


def detected(content: dict[str, Any], **changed: Any) -> list[dict[str, Any]]:
    """The annotated boxes as detections in COCO's result format, with score 0.9; `changed` replaces fields."""
    return [
        {"image_id": a["image_id"], "category_id": 5, "bbox": a["bbox"], "score": 0.9, **changed}
        for a in content["annotations"]
    ]
