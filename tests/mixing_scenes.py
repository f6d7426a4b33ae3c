"""Scenes of random instances for tests of mixing, and their bitmaps."""

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, Image

from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.data.polygons import Polygons, orient_clockwise
from chordate.data.rasterize import rasterize
from chordate.data.rle import mask_rings

Sample = dict[str, Any]


def scene(seed: int, height: int, width: int, instances: int, first_label: int = 0, specks: float = 0.1) -> Sample:
    """A noise image with random instances (polygons, decoded RLE), each with its own label; the last is a crowd."""
    random = np.random.default_rng(seed)
    rings = []
    for number in range(instances):
        middle, radius = random.uniform(0, [width, height]), random.uniform(4, 0.4 * min(height, width))
        angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        reach = radius * (1 + 0.3 * np.cos(random.integers(2, 6) * angle))
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None] + middle
        ring = orient_clockwise(ring.clip(0, [width, height]).astype(np.float32))
        if number % 3 == 2:  # as decoded from RLE: polygons along pixel borders, with holes and specks
            mask = cv2.fillPoly(np.zeros((height, width), np.uint8), [ring.round().astype(np.int32)], 1)
            rings.append(mask_rings(mask * (random.random((height, width)) > specks)))
        else:
            rings.append([ring])
    polygons = Polygons.from_rings([r if n < instances - 1 else [] for n, r in enumerate(rings)], (height, width))
    points = torch.from_numpy(random.uniform(0, [width, height], (instances, 5, 2)))
    seen = torch.from_numpy(random.integers(0, 3, (instances, 5, 1)))
    boxes = Polygons.from_rings(rings, (height, width)).bounds()
    return {
        "image": Image(torch.from_numpy(random.integers(0, 256, (3, height, width), np.uint8))),
        "boxes": BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        "labels": first_label + torch.arange(instances),
        "crowd": torch.arange(instances) == instances - 1,
        "polygons": polygons,
        "keypoints": InstanceKeypoints(
            torch.cat([points, seen], 2), mirrored=[0, 2, 1, 4, 3], canvas_size=(height, width)
        ),
    }


def with_partners(sample: Sample, *others: Sample) -> Sample:
    """The sample with a function `partner` that returns the next of the other samples at each call."""
    turn = iter(others)
    return {**sample, "partner": lambda: next(turn)}


def drawn(sample: Sample, height: int, width: int, finer: int = 1) -> Tensor:
    """Bitmaps `[M, finer * height, finer * width]` bool of the instances, on a canvas of `height` × `width` pixels."""
    whole = torch.tensor([[0.0, 0.0, width, height]]).expand(sample["polygons"].count, 4)
    return rasterize(sample["polygons"], whole, finer * height, finer * width).bool()


def rows(sample: Sample) -> dict[int, int]:
    """The index of each instance, keyed by its label, which is unique in the sample."""
    return {label: row for row, label in enumerate(sample["labels"].tolist())}
