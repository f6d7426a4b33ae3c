"""TopDownCrop: crops one object, as input of top-down pose estimators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from chordate.arguments import PositiveFloat, PositiveInt, ProperFraction
from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.registry import TRANSFORMS
from chordate.structures import Sample
from chordate.structures.pose import CropInfo


@TRANSFORMS.register_module()
class TopDownCrop:
    """Crop an object to a fixed size, with random rotation and scale (Xiao et al. 2018, section 4.1).

    The crop is the object's box, extended to the aspect ratio of `size` (4:3 in the paper) and enlarged by `padding`
    (1.25 in the authors' code). Without `boxes`, the whole image is the object. Keypoints outside the crop become
    unlabeled, and pixels outside the image are black. Color transforms may come before or after this transform; flips
    must come after it.

    Args:
        size: height and width of the crop in pixels.
        padding: factor that enlarges the box.
        rotation: maximum angle in degrees; the angle is drawn uniformly from -rotation … rotation.
        scale: maximum relative change of the crop's size; the factor is drawn uniformly from 1 - scale … 1 + scale.
    """

    def __init__(
        self,
        size: tuple[PositiveInt, PositiveInt],
        padding: PositiveFloat = 1.25,
        rotation: Annotated[float, Ge(0), Le(180)] = 0.0,
        scale: ProperFraction = 0.0,
    ):
        self.size, self.padding, self.rotation, self.scale = size, padding, rotation, scale

    def __call__(self, sample: Sample) -> Sample:
        image = sample["image"]
        info = CropInfo.whole(sample["info"], image.shape[-2:])
        whole = [0.0, 0.0, float(image.shape[-1]), float(image.shape[-2])]
        box = sample["boxes"].as_subclass(Tensor)[0].tolist() if "boxes" in sample else whole
        angle, scale = _uniform(self.rotation), 1 + _uniform(self.scale)
        matrix = crop_matrix(box, self.size, self.padding * scale, angle)
        to_original = _square(info.matrix) @ np.linalg.inv(_square(matrix))
        (a, b, c), (d, e, f) = to_original[:2].tolist()
        cropped: dict[str, Any] = {
            "image": Image(warp(image, matrix, self.size)),
            "info": replace(info, size=self.size, matrix=((a, b, c), (d, e, f))),
        }
        if "boxes" in sample:
            boxes = _move_boxes(sample["boxes"].as_subclass(Tensor), matrix)
            cropped["boxes"] = BoundingBoxes(boxes, format=BoundingBoxFormat.XYXY, canvas_size=self.size)
        if "keypoints" in sample:
            cropped["keypoints"] = _move_keypoints(sample["keypoints"], matrix, self.size)
        return {**sample, **cropped}


def crop_matrix(
    box: Sequence[float], size: tuple[int, int], padding: float = 1.25, angle: float = 0.0
) -> NDArray[np.float64]:
    """The affine matrix from image coordinates to crop coordinates, in continuous pixel coordinates.

    Args:
        box: x1, y1, x2, y2 in pixels. The center of the box maps to the center of the crop. If `angle` is 0, the box
            enlarged by `padding` just fits into the crop.
        size: height and width of the crop in pixels.
        padding: factor that enlarges the box.
        angle: clockwise rotation of the image in degrees, as displayed (y points down).

    Returns:
        `[2, 3]`.
    """
    x1, y1, x2, y2 = box
    height, width = size
    zoom = 1 / (padding * max((x2 - x1) / width, (y2 - y1) / height))
    cos, sin = zoom * math.cos(math.radians(angle)), zoom * math.sin(math.radians(angle))
    linear = np.array([[cos, -sin], [sin, cos]])
    center = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    return np.column_stack([linear, np.array([width / 2, height / 2]) - linear @ center])


def warp(image: Tensor, matrix: NDArray[np.float64], size: tuple[int, int]) -> Tensor:
    """Warp an image `[C, H, W]` with bilinear interpolation to an image of `size` (height, width).

    `matrix` `[2, 3]` maps coordinates of `image` to coordinates of the result, in continuous pixel coordinates.
    """
    indices = matrix.copy()  # OpenCV's coordinates are pixel indices
    indices[:, 2] += 0.5 * (matrix[:, :2].sum(1) - 1)
    array = np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())
    warped = cv2.warpAffine(array, indices, size[::-1], flags=cv2.INTER_LINEAR)
    return torch.from_numpy(warped.reshape(*size, -1)).permute(2, 0, 1)


def _uniform(limit: float) -> float:
    """A uniform random number from -limit to limit. With a limit of 0, the random generator is not used."""
    return limit * (float(torch.rand(())) * 2 - 1) if limit else 0.0


def _square(matrix: Any) -> NDArray[np.float64]:
    return np.vstack([np.array(matrix), [0.0, 0.0, 1.0]])


def move_points(points: Tensor, matrix: NDArray[np.float64]) -> Tensor:
    """Transform points `[..., 2]` by an affine matrix `[2, 3]`."""
    linear, offset = torch.from_numpy(matrix[:, :2]), torch.from_numpy(matrix[:, 2])
    return (points.double() @ linear.T + offset).to(points.dtype)


def _move_keypoints(
    keypoints: InstanceKeypoints, matrix: NDArray[np.float64], size: tuple[int, int]
) -> InstanceKeypoints:
    data = keypoints.as_subclass(Tensor)
    points = move_points(data[..., :2], matrix)
    inside = ((points >= 0) & (points <= torch.tensor([size[1], size[0]]))).all(-1)
    moved = torch.cat((points, (data[..., 2] * inside)[..., None]), -1)
    return InstanceKeypoints(moved, mirrored=keypoints.mirrored, canvas_size=size)


def _move_boxes(boxes: Tensor, matrix: NDArray[np.float64]) -> Tensor:
    """Transform the corners of boxes `[M, 4]` by an affine matrix; returns the smallest boxes around them."""
    corners = move_points(boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]], matrix)
    return torch.cat([corners.amin(1), corners.amax(1)], 1)
