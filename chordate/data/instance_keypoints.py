"""Keypoints of instances: a tv_tensor that torchvision's transforms move with the image, and a COCO reader."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import TVTensor

from chordate.data.file_ids import id_in_file
from chordate.data.findings import name_annotation
from chordate.data.point_kernels import MOVERS, Canvas, Mover
from chordate.errors import DataError
from chordate.structures import Skeleton

MIRRORS = (F.horizontal_flip, F.vertical_flip)  # both swap left and right keypoints


class InstanceKeypoints(TVTensor):
    """The keypoints of all instances of an image.

    torchvision's KeyPoints have no visibility, do not swap left and right when flipped, and refer to pixel centers.
    InstanceKeypoints have visibility, swap left and right when flipped, and use continuous coordinates, like boxes and
    Polygons. The visibility of a point that leaves the image becomes 0.

    Attributes:
        data (the tensor itself): `[M, K, 3]` float32, x, y in pixels and COCO's visibility (0 not labeled, 1 hidden,
            2 visible).
        mirrored: `[K]` int64, for each keypoint, the index of the keypoint that replaces it in a flipped image, e.g.
            the right eye for the left eye.
        canvas_size: height and width of the image.
    """

    mirrored: Tensor
    canvas_size: Canvas

    def __new__(cls, data: Any, *, mirrored: Any, canvas_size: Canvas) -> Self:
        self = torch.as_tensor(data, dtype=torch.float32).as_subclass(cls)
        self.mirrored, self.canvas_size = torch.as_tensor(mirrored, dtype=torch.int64), canvas_size
        return self

    @classmethod
    def _wrap_output(cls, output: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        # torch calls this for the few operations that keep the class: clone, to, detach.
        like = next(arg for arg in args if isinstance(arg, InstanceKeypoints))
        return like._replace_data(output, like.canvas_size) if isinstance(output, Tensor) else output

    def _replace_data(self, data: Tensor, canvas_size: Canvas) -> Self:
        return type(self)(data, mirrored=self.mirrored, canvas_size=canvas_size)

    def select(self, keep: Tensor) -> Self:
        """Select the instances where `keep` `[M]` is true."""
        return self._replace_data(self.as_subclass(Tensor)[keep], self.canvas_size)


def _kernel(functional: Callable[..., Any], mover: Mover) -> Callable[..., InstanceKeypoints]:
    def moved(keypoints: InstanceKeypoints, *args: Any, **kwargs: Any) -> InstanceKeypoints:
        plain = keypoints.as_subclass(Tensor)
        places, canvas = mover(plain[..., :2].reshape(-1, 2), keypoints.canvas_size, *args, **kwargs)
        places = places.reshape(*plain.shape[:2], 2)
        inside = ((places >= 0) & (places <= torch.tensor([canvas[1], canvas[0]]))).all(-1)
        result = torch.cat((places, (plain[..., 2] * inside)[..., None]), -1)
        return keypoints._replace_data(result[:, keypoints.mirrored] if functional in MIRRORS else result, canvas)

    return moved


for _functional, _mover in MOVERS.items():
    F.register_kernel(_functional, InstanceKeypoints)(_kernel(_functional, _mover))


def skeleton_of(categories: Sequence[Mapping[str, Any]], source: str) -> Skeleton:
    """The common skeleton of COCO categories, from their fields `keypoints` (names) and `skeleton` (1-based bones).

    Args:
        categories: the categories that the dataset uses; some may have no keypoints.
        source: the file's name, for messages.

    Raises:
        DataError: no category has keypoints, categories have different keypoints, two keypoints of a category have the
            same name, or a bone joins a keypoint that does not exist.
    """
    described = [category for category in categories if category.get("keypoints")]
    if not described:
        raise DataError(
            f"{source}: none of the used categories has keypoints; keypoints=True needs a file with keypoint names, "
            f"such as COCO's person_keypoints_train2017.json"
        )
    skeletons = {}
    for category in described:
        names = tuple(map(str, category["keypoints"]))
        bones = tuple((int(a) - 1, int(b) - 1) for a, b in category.get("skeleton") or ())
        if len(set(names)) < len(names):
            raise DataError(f'{source}: category "{category["name"]}" has two keypoints with the same name; rename one')
        if any(not 0 <= end < len(names) for bone in bones for end in bone):
            raise DataError(
                f'{source}: the skeleton of category "{category["name"]}" joins keypoints that do not exist; there are '
                f"{len(names)}, and COCO counts keypoints from 1"
            )
        skeletons[names] = Skeleton(names, bones)
    if len(skeletons) > 1:
        counts = " and ".join(f'"{category["name"]}" {len(category["keypoints"])}' for category in described)
        raise DataError(
            f"{source}: categories have different keypoints ({counts}); set classes to categories with the same "
            f"keypoints"
        )
    return next(iter(skeletons.values()))


def read_keypoints(
    annotations: Sequence[Mapping[str, Any]], skeleton: Skeleton, canvas_size: Canvas, source: str
) -> InstanceKeypoints:
    """The keypoints of COCO annotations. If an annotation has no `keypoints`, its keypoints are all marked as not
    labeled.

    COCO's coordinates are pixel indices, so half a pixel is added to get continuous coordinates.

    Raises:
        DataError: an annotation's number of keypoints differs from its category's.
    """
    count = len(skeleton.names)
    rows = []
    for annotation in annotations:
        numbers = annotation.get("keypoints") or [0.0] * (3 * count)
        if len(numbers) != 3 * count:
            owner = name_annotation(id_in_file(annotation))
            raise DataError(
                f"{source}: {owner} has {len(numbers)} numbers in `keypoints`; its category has {count} keypoints, "
                f"with three numbers each"
            )
        rows.append(numbers)
    keypoints = torch.tensor(rows, dtype=torch.float32).reshape(-1, count, 3)
    keypoints[..., :2] += 0.5
    return InstanceKeypoints(keypoints, mirrored=skeleton.mirrored, canvas_size=canvas_size)


def has_keypoints(annotation: Mapping[str, Any]) -> bool:
    """Whether a COCO annotation has a labeled keypoint."""
    return any(annotation.get("keypoints", ())[2::3])
