"""Keypoints: transforms move them with their pixels, flips swap left and right, and COCO files are read."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from test_polygons import GEOMETRIC
from tiny_coco import CATEGORIES, annotation, write_coco
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional._utils import _KERNEL_REGISTRY
from torchvision.tv_tensors import BoundingBoxes, Image

from chordate.data import CocoDataset
from chordate.data.coco_classes import COCO_SKELETON
from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.errors import DataError
from chordate.structures import Skeleton

HEIGHT, WIDTH = 160, 200
NAMES = ("head", "left_hand", "right_hand")
SWAPPED = (0, 2, 1)
PERSON = [{"id": 3, "name": "person", "keypoints": list(NAMES), "skeleton": [[1, 2], [1, 3]]}, {"id": 7, "name": "dog"}]


def keypoints(*instances: list[list[float]]) -> InstanceKeypoints:
    return InstanceKeypoints(torch.tensor(instances), mirrored=SWAPPED, canvas_size=(HEIGHT, WIDTH))


def dots(points: Tensor, height: int, width: int, spread: float = 2.5) -> Tensor:
    """An image `[N, height, width]` of `points` `[N, 2]`: each channel has a Gaussian dot at one point."""
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    away = (x - points[:, 0, None])[:, None] ** 2 + ((y - points[:, 1, None]) ** 2)[:, :, None]
    return (-away / (2 * spread**2)).exp()


def center(dot: Tensor) -> Tensor:
    y, x = torch.meshgrid(torch.arange(dot.shape[1]) + 0.5, torch.arange(dot.shape[2]) + 0.5, indexing="ij")
    return torch.stack([(dot * x).sum((1, 2)), (dot * y).sum((1, 2))], 1) / dot.sum((1, 2))[:, None]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_transform_moves_keypoints_as_it_moves_their_pixels(name):
    points = keypoints([[60.5, 40.5, 2], [100.25, 80, 2], [131, 95.5, 1]], [[75, 110, 2], [140, 60, 1], [90, 70, 2]])
    plain = points.as_subclass(Tensor)
    spread = 1.0 if name == "elastic" else 2.5  # elastic deformation shifts a dot's center of mass, more for large dots
    for seed in range(3):
        torch.manual_seed(seed)
        sample = {
            "image": Image(dots(plain.flatten(0, 1), HEIGHT, WIDTH, spread)),
            "boxes": BoundingBoxes([[50, 30, 140, 120]], format="XYXY", canvas_size=(HEIGHT, WIDTH)),
            "keypoints": points,
        }
        moved = GEOMETRIC[name](sample)
        moved_keypoints, picture = moved["keypoints"], moved["image"]
        assert moved_keypoints.canvas_size == tuple(picture.shape[-2:])
        if "flip" in name or name == "in a container":
            picture = picture.unflatten(0, (2, 3))[:, list(SWAPPED)].flatten(0, 1)
        whole = picture.amax((1, 2)) > 0.5
        border = torch.cat([picture[:, [0, -1]].flatten(1), picture[:, :, [0, -1]].flatten(1)], 1).amax(1)
        whole &= border < 1e-3  # excludes dots cut off by the border, whose center of mass is shifted
        visible = moved_keypoints.as_subclass(Tensor)[..., 2].flatten() > 0
        assert visible[whole].all()
        places = moved_keypoints.as_subclass(Tensor)[..., :2].flatten(0, 1)
        tolerance = 0.25 if name == "elastic" else 0.15  # pixels
        assert ((places - center(picture))[whole].abs() < tolerance).all()


def test_every_functional_with_a_kernel_for_boxes_has_one_for_keypoints():
    of_boxes = {functional for functional, kernels in _KERNEL_REGISTRY.items() if BoundingBoxes in kernels}
    missing = {f.__name__ for f in of_boxes if InstanceKeypoints not in _KERNEL_REGISTRY[f]}
    assert missing <= {"get_size", "to_dtype"}  # the functionals that move no points


@pytest.mark.parametrize("flip", [F.horizontal_flip, F.vertical_flip])
def test_flips_swap_left_and_right_keypoints(flip):
    points = keypoints([[60, 40, 2], [100, 80, 1], [131, 95, 2]])
    once = flip(points)
    assert once[0, :, 2].tolist() == [2, 2, 1]
    x, y = (WIDTH - 131, 95) if flip is F.horizontal_flip else (131, HEIGHT - 95)
    assert once[0, 1].tolist() == [x, y, 2]
    assert torch.equal(flip(once), points)


def test_keypoints_that_a_crop_cuts_off_stay_unlabeled():
    points = keypoints([[60, 40, 2], [100, 80, 1], [131, 95, 2]])
    back = F.pad(F.crop(points, 0, 0, HEIGHT, 100), [0, 0, WIDTH - 100, 0])
    assert back[0, :, 2].tolist() == [2, 1, 0]


def test_left_and_right_keypoints_are_paired_by_name():
    assert Skeleton(("nose", "left_eye", "right_eye", "tail")).mirrored == (0, 2, 1, 3)
    assert Skeleton(("LeftHand", "RightHand", "L_Foot", "R_Foot", "eye-l", "eye-r")).mirrored == (1, 0, 3, 2, 5, 4)
    assert Skeleton(("left_wing", "bright_spot", "collar")).mirrored == (0, 1, 2)
    # left-right pairs, from COCO's documentation
    pairs = [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)]
    assert [(i, j) for i, j in enumerate(COCO_SKELETON.mirrored) if i < j] == pairs


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: p.clone(), lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_keep_the_mirrored_indices_and_the_canvas_size(copied):
    points = keypoints([[60, 40, 2], [100, 80, 1], [131, 95, 2]])
    other = copied(points)
    assert isinstance(other, InstanceKeypoints) and torch.equal(other, points)
    assert other.canvas_size == (HEIGHT, WIDTH) and other.mirrored.tolist() == list(SWAPPED)


def open_dataset(root: Path, **settings) -> CocoDataset:
    return CocoDataset("annotations.json", "images", data_root=root, keypoints=True, **settings)


def person(id: int, image: int, box: list[float], *points: int) -> dict:
    return annotation(id, image, box, keypoints=list(points))


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_cocos_keypoints_are_read_with_half_a_pixel_added(real_data: Path, split: str):
    file = f"annotations/person_keypoints_{split}.json"
    dataset = CocoDataset(file, split, data_root=real_data / "coco-mini", keypoints=True)
    assert dataset.meta.skeleton == COCO_SKELETON
    reference = COCO(str(real_data / "coco-mini" / file))
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        expected = [a["keypoints"] for a in reference.loadAnns(reference.getAnnIds(image_id))]
        loaded = dataset.read(index)["keypoints"]
        np.testing.assert_array_equal(loaded - torch.tensor([0.5, 0.5, 0]), np.array(expected).reshape(-1, 17, 3))
    annotated = {a["image_id"] for a in reference.anns.values() if a["num_keypoints"] and not a["iscrowd"]}
    filtered = CocoDataset(file, split, data_root=real_data / "coco-mini", keypoints=True, filter_empty=True)
    assert set(filtered.image_ids.tolist()) == annotated


def test_a_pipeline_transforms_the_keypoints_of_a_sample(tmp_path: Path):
    """A 60×80 image is flipped, padded and cropped to 30 columns; only the person originally on the right remains."""
    people = [
        person(1, 1, [2, 2, 20, 20], 3, 4, 2, 5, 6, 2, 7, 8, 1),
        person(2, 1, [50, 10, 29, 40], 60, 20, 2, 70, 30, 1, 48, 40, 2),
    ]
    root = write_coco(tmp_path, people, categories=PERSON)
    pipeline = [{"type": "RandomHorizontalFlip", "p": 1.0}, {"type": "Pad", "padding": [0, 0, 0, 10]}]
    sample = open_dataset(root, pipeline=[*pipeline, Left(30)])[(0, 0)]
    assert sample["boxes"].tolist() == [[1, 10, 30, 50]]
    assert type(sample["keypoints"]) is Tensor
    assert sample["keypoints"].tolist() == [[[19.5, 20.5, 2], [31.5, 40.5, 0], [9.5, 30.5, 1]]]


class Left:
    """Crops a sample to its left `width` columns."""

    def __init__(self, width: int):
        self.width = width

    def __call__(self, sample: dict) -> dict:
        moved = {name: F.crop(sample[name], 0, 0, 70, self.width) for name in ("image", "boxes", "keypoints")}
        return {**sample, **moved}


def test_a_batch_has_the_keypoints_of_every_instance(tmp_path: Path):
    people = [person(1, 1, [2, 2, 20, 20], 3, 4, 2, 5, 6, 2, 7, 8, 1), annotation(2, 1, [5, 5, 30, 30], 7)]
    dataset = open_dataset(write_coco(tmp_path, people, categories=PERSON))
    targets = dataset.collate([dataset[(0, 0)], dataset[(0, 1)]]).targets
    assert targets.keypoints.shape == (2, 8, 3, 3)
    assert targets.keypoints[0, 0].tolist() == [[3.5, 4.5, 2], [5.5, 6.5, 2], [7.5, 8.5, 1]]
    assert targets.keypoints[0, 1:, :, 2].sum() == 0 and targets.keypoints[1].sum() == 0


@pytest.mark.parametrize(
    ("categories", "points", "message"),
    [
        (CATEGORIES, (), r"none of the used categories has keypoints; keypoints=True needs a file with keypoint names"),
        ([{**PERSON[0], "skeleton": [[1, 4]]}], (), r'skeleton of category "person" joins keypoints that do not exist'),
        ([{**PERSON[0], "keypoints": ["a", "b", "a"]}], (), r"has two keypoints with the same name"),
        ([PERSON[0], {"id": 7, "name": "dog", "keypoints": ["tail"]}], (), r'\("person" 3 and "dog" 1\); set classes'),
        (PERSON, (1, 2, 2), r"with visibility 0, 1 or 2: \[1, 2, 2\] for 3 keypoints \(id 1\)"),
    ],
)
def test_invalid_keypoints_are_a_one_line_error(tmp_path: Path, categories, points, message):
    root = write_coco(tmp_path, [person(1, 1, [2, 2, 20, 20], *points)], categories=categories)
    with pytest.raises(DataError, match=message) as error:
        open_dataset(root)[(0, 0)]
    assert "\n" not in str(error.value) and str(root / "annotations.json") in str(error.value)


def test_one_of_several_categories_with_different_keypoints_can_be_selected(tmp_path: Path):
    both = [PERSON[0], {"id": 7, "name": "dog", "keypoints": ["tail"]}]
    root = write_coco(tmp_path, [annotation(1, 1, [2, 2, 20, 20], 7, keypoints=[3, 4, 2])], categories=both)
    assert open_dataset(root, classes=["dog"]).meta.skeleton == Skeleton(("tail",))
