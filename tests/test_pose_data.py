"""Crops of objects with keypoints: the affine matrix, augmentation, the dataset, and boxes of a detector."""

from __future__ import annotations

import json
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stick_figures import NAMES, detected, write_figures
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, Image

from chordate.data import CocoPoseDataset
from chordate.data.instance_keypoints import InstanceKeypoints
from chordate.data.loader import build_dataset
from chordate.data.transforms import TopDownCrop
from chordate.data.transforms.top_down_crop import crop_matrix, move_points
from chordate.errors import DataError
from chordate.structures import CropInfo, DatasetMeta, ImageInfo, PoseTargets, Skeleton
from chordate.visualization import draw_targets

SIZE = (256, 192)
boxes = st.tuples(st.floats(-50, 300), st.floats(-50, 300), st.floats(4, 400), st.floats(4, 400)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


def opencv_matrix(box, size, padding, angle) -> np.ndarray:
    """The affine matrix `[2, 3]` from image to crop, computed from three points as in the code of Simple Baselines."""
    height, width = size
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    if w > width / height * h:
        h = w * height / width
    else:
        w = h * width / height
    w, h = w * padding, h * padding
    center = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    # The vector from the crop's center to the middle of its upper side, in image coordinates.
    up = np.array([-math.sin(math.radians(angle)), -math.cos(math.radians(angle))]) * h / 2
    right = np.array([-up[1], up[0]]) / (h / 2) * w / 2
    source = np.float32([center, center + up, center + right])
    return cv2.getAffineTransform(source, np.float32([[width / 2, height / 2], [width / 2, 0], [width, height / 2]]))


@given(boxes, st.floats(-180, 180), st.floats(0.5, 2), st.sampled_from([(256, 192), (192, 256), (64, 64)]))
def test_the_map_of_a_crop_equals_opencvs_of_three_points(box, angle, padding, size):
    points = torch.tensor([[0.0, 0.0], [100.0, 20.0], [-7.0, 310.0], box[:2], box[2:]], dtype=torch.float64)
    expected = cv2.transform(points.numpy()[None], opencv_matrix(box, size, padding, angle))[0]
    found = move_points(points, crop_matrix(box, size, padding, angle)).numpy()
    assert found == pytest.approx(expected, rel=1e-3, abs=0.05)  # OpenCV needs the points in float32


@given(boxes)
def test_a_box_just_fits_into_its_crop(box):
    corners = move_points(torch.tensor([box[:2], box[2:]], dtype=torch.float64), crop_matrix(box, SIZE, padding=1.0))
    (left, top), (right, bottom) = corners.tolist()
    assert left >= -1e-6 and top >= -1e-6 and right <= 192 + 1e-6 and bottom <= 256 + 1e-6
    assert max((right - left) / 192, (bottom - top) / 256) == pytest.approx(1)


def blobs(points: list[tuple[float, float]], size: tuple[int, int], sigma: float = 3.0) -> torch.Tensor:
    """An image with a Gaussian spot around each point; points are in continuous pixel coordinates."""
    row, column = np.mgrid[: size[0], : size[1]] + 0.5
    spots = sum(np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2)) for x, y in points)
    return torch.from_numpy((255 * spots).round().astype(np.uint8)).expand(3, -1, -1)


def figure(point: tuple[float, float], box: list[float], size: tuple[int, int]) -> dict:
    keypoints = torch.tensor([[[*point, 2.0]]])
    return {
        "image": Image(blobs([point], size)),
        "boxes": BoundingBoxes(torch.tensor([box]), format="XYXY", canvas_size=size),
        "keypoints": InstanceKeypoints(keypoints, mirrored=[0], canvas_size=size),
        "info": CropInfo(0, "a.png", *size, box=tuple(box), size=size),
    }


@pytest.mark.parametrize("seed", range(6))
def test_pixels_move_as_keypoints_do(seed):
    """The centroid of a spot in the crop equals the transformed keypoint; `CropInfo.matrix` inverts the transform."""
    torch.manual_seed(seed)
    point = 91.3, 70.8
    crop = TopDownCrop(size=(256, 192), rotation=40, scale=0.3)(figure(point, [60.0, 40.0, 130.0, 120.0], (150, 200)))
    weights = crop["image"][0].double()
    row, column = (torch.arange(side) + 0.5 for side in weights.shape)
    centroid = (weights.sum(0) @ column.double() / weights.sum(), weights.sum(1) @ row.double() / weights.sum())
    x, y, visibility = crop["keypoints"].as_subclass(torch.Tensor)[0, 0].tolist()
    assert (x, y) == pytest.approx([float(c) for c in centroid], abs=0.1) and visibility == 2
    (a, b, c), (d, e, f) = crop["info"].matrix
    assert (a * x + b * y + c, d * x + e * y + f) == pytest.approx(point, abs=1e-3)


def test_the_area_of_a_crop_is_that_of_the_enlarged_box():
    crop = TopDownCrop(size=(256, 192))(figure((50.0, 50.0), [40.0, 40.0, 70.0, 120.0], (150, 200)))
    # The box is 80 px high, and is extended to a width of 60 px.
    assert crop["info"].area == pytest.approx((80 * 1.25) * (60 * 1.25))


def test_keypoints_outside_the_crop_are_unlabeled_and_black_is_outside_the_image():
    crop = TopDownCrop(size=(64, 48))(figure((150.0, 20.0), [0.0, 0.0, 40.0, 60.0], (150, 200)))
    assert crop["keypoints"].as_subclass(torch.Tensor)[0, 0, 2] == 0
    white = {**figure((1.0, 1.0), [0.0, 0.0, 30.0, 40.0], (60, 60)), "image": Image(torch.full((3, 60, 60), 255))}
    pixels = TopDownCrop(size=(64, 48))({**white, "image": white["image"].byte()})["image"]
    assert (pixels[:, :6] == 0).all() and (pixels[:, :, :4] == 0).all() and (pixels[:, 10:, 10:] == 255).all()


def test_an_image_without_boxes_is_one_object():
    info = ImageInfo(3, "a.jpg", 80, 120)
    crop = TopDownCrop(size=(64, 48))({"image": Image(torch.zeros(3, 80, 120, dtype=torch.uint8)), "info": info})
    assert crop["image"].shape == (3, 64, 48) and crop["info"].box == (0, 0, 120, 80)
    assert move_points(torch.tensor([[24.0, 32.0]]), np.array(crop["info"].matrix)).tolist() == [[60.0, 40.0]]


def test_an_image_resized_before_its_crop_leads_back_to_the_original():
    pipeline = v2.Compose([v2.Resize((40, 60)), TopDownCrop(size=(64, 48))])
    sample = {"image": Image(torch.zeros(3, 80, 120, dtype=torch.uint8)), "info": ImageInfo(3, "a.jpg", 80, 120)}
    corner = move_points(torch.tensor([[24.0, 32.0]]), np.array(pipeline(sample)["info"].matrix))
    assert corner.tolist() == [[60.0, 40.0]]


# The dataset


def figures(root, **settings) -> CocoPoseDataset:
    write_figures(root)
    return CocoPoseDataset("figures.json", "images", data_root=root, **settings)


CROP = {"type": "TopDownCrop", "size": (64, 48), "rotation": 40.0, "scale": 0.3}


def test_a_sample_is_one_object_with_its_keypoints(tmp_path):
    content, dataset = write_figures(tmp_path), figures(tmp_path)
    assert len(dataset) == 12 and dataset.meta == DatasetMeta(("figure",), Skeleton(tuple(NAMES), ((0, 1), (0, 2))))
    assert dataset.crop_image_ids.tolist() == [10, 10, 20, 20, 30, 30, 40, 40, 50, 50, 60, 60]
    for index, annotation in enumerate(content["annotations"]):
        targets = dataset.original(index).targets
        assert isinstance(targets, PoseTargets) and targets.describe(0) == "3 of 3 keypoints"
        expected = torch.tensor(annotation["keypoints"]).reshape(3, 3) + torch.tensor([0.5, 0.5, 0])
        assert torch.equal(targets.keypoints[0], expected)
        x, y, w, h = annotation["bbox"]
        assert targets.boxes.tolist() == [[x, y, x + w, y + h]]


@pytest.mark.parametrize("pipeline", [[], [{"type": "Resize", "size": (64, 48)}], [{"type": "RandomHorizontalFlip"}]])
def test_a_pipeline_without_crop_is_one_line(tmp_path, pipeline):
    """Without a crop, the other objects of the image would be trained on as background."""
    with pytest.raises(DataError, match=r'does not crop the object .*; add dict\(type="TopDownCrop"') as caught:
        figures(tmp_path, pipeline=pipeline)[0, 0]
    assert "\n" not in str(caught.value)


def test_an_object_that_fills_its_image_needs_no_crop(tmp_path):
    content = write_figures(tmp_path)
    image, annotation = content["images"][0], content["annotations"][0]
    annotation["bbox"] = [0, 0, image["width"], image["height"]]
    (tmp_path / "figures.json").write_text(json.dumps(content))
    dataset = CocoPoseDataset("figures.json", "images", data_root=tmp_path)
    assert dataset[0, 0]["image"].shape[-2:] == (image["height"], image["width"])


def test_objects_without_a_labeled_keypoint_a_box_or_alone_are_left_out(tmp_path):
    content = write_figures(tmp_path)
    unlabeled, crowd, outside = content["annotations"][:3]
    unlabeled["keypoints"] = [0] * 9
    crowd["iscrowd"] = 1
    outside["bbox"] = [500, 500, 10, 10]
    (tmp_path / "figures.json").write_text(json.dumps(content))
    dataset = CocoPoseDataset("figures.json", "images", data_root=tmp_path)
    assert dataset.annotation_ids.tolist() == list(range(4, 13)) and len(dataset.image_ids) == 6
    content["annotations"] = [unlabeled]
    (tmp_path / "figures.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="no object with a box and a labeled keypoint"):
        CocoPoseDataset("figures.json", "images", data_root=tmp_path)


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path):
    dataset = figures(tmp_path, pipeline=[CROP, {"type": "RandomHorizontalFlip"}], seed=5)
    again = pickle.loads(pickle.dumps(dataset))

    def same(a, b) -> bool:
        return torch.equal(a["image"], b["image"]) and torch.equal(a["keypoints"], b["keypoints"])

    for key in ((0, 3), (7, 3)):
        first = dataset[key]
        torch.rand(9)
        assert same(first, again[key])
    assert not same(dataset[0, 3], dataset[1, 3])


def test_a_flip_after_the_crop_swaps_left_and_right(tmp_path):
    plain = figures(tmp_path, pipeline=[{**CROP, "rotation": 0.0, "scale": 0.0}])[0, 0]
    flipped = figures(
        tmp_path, pipeline=[{**CROP, "rotation": 0.0, "scale": 0.0}, {"type": "RandomHorizontalFlip", "p": 1.0}]
    )[0, 0]
    assert torch.equal(flipped["image"], plain["image"].flip(-1))
    mirrored = plain["keypoints"][0, [0, 2, 1]] * torch.tensor([-1, 1, 1]) + torch.tensor([48.0, 0, 0])
    assert torch.allclose(flipped["keypoints"][0], mirrored)


def test_targets_are_drawn_on_the_crop(tmp_path):
    dataset = figures(tmp_path, pipeline=[CROP])
    batch = dataset.collate([dataset[0, 0]])
    image = np.full((64, 48, 3), 90, np.uint8)
    picture = draw_targets(batch.targets, 0, image, dataset.meta, long_side=640)
    for (x, y, _), color in zip(batch.targets.keypoints[0].tolist(), (None, (255, 150, 20), (60, 200, 60))):
        if color:
            assert tuple(picture[int(10 * y), int(10 * x)]) == color


# Boxes of a detector


def test_boxes_of_a_detector_replace_those_of_the_annotations(tmp_path):
    content = write_figures(tmp_path)
    results = [
        *detected(content, score=0.5)[::-1],
        {"image_id": 10, "category_id": 5, "bbox": [1, 2, 30, 40], "score": 0.04},
        {"image_id": 10, "category_id": 9, "bbox": [1, 2, 30, 40], "score": 0.99},
        {"image_id": 10, "category_id": 5, "bbox": [1, 2, 0, 40], "score": 0.99},
    ]
    (tmp_path / "found.json").write_text(json.dumps(results))
    dataset = figures(tmp_path, boxes="found.json", box_score_threshold=0.05)
    assert len(dataset) == 12 and (np.diff(dataset.crop_image_ids) >= 0).all()
    sample = dataset.read(0)
    assert sample["info"].score == 0.5 and sample["info"].path.endswith("1.png")
    assert (sample["keypoints"].as_subclass(torch.Tensor)[..., 2] == 0).all()
    assert len(figures(tmp_path, boxes="found.json")) == 13
    with pytest.raises(DataError, match="no keypoints to train on; remove the setting `boxes`"):
        dataset.check_annotated(training=True)
    dataset.check_annotated(training=False)


def test_scores_above_1_by_a_rounding_error_are_clamped(tmp_path):
    write_figures(tmp_path)
    result = {"image_id": 10, "category_id": 5, "bbox": [1, 2, 30, 40], "score": 1.0000001}
    (tmp_path / "found.json").write_text(json.dumps([result]))
    dataset = figures(tmp_path, boxes="found.json")
    assert dataset.box_scores.tolist() == [1.0] and dataset.boxes.tolist() == [[1, 2, 31, 42]]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("[{", r"found\.json: not COCO results \(Invalid JSON"),
        ({"annotations": []}, "not COCO results .*valid (array|list)"),
        ([{"image_id": 10, "bbox": [1, 2, 3, 4], "score": 0.5}], r"entry 0, category_id: Field required"),
        ([{"image_id": 10, "category_id": 5, "bbox": [1, 2, 3], "score": 0.5}], "entry 0, bbox, 3: Field required"),
        ([{"image_id": 10, "category_id": 5, "bbox": [1, 2, 3, math.nan], "score": 0.5}], "entry 0, bbox, 3: .*finite"),
        ([{"image_id": 10, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 50}], "entry 0, score: .*less than"),
        (
            [{"image_id": 11, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5}],
            "1 of 1 box .*first belongs to image 11",
        ),
        ([{"image_id": 10, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "box, but none of category 5"),
        ([], "0 boxes, but none of category 5"),
        (
            [{"image_id": 10, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.01}],
            "has a score < box_score_threshold=0.05",
        ),
        (
            [{"image_id": 10**20, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5}],
            "1 of 1 box .*first belongs to image 100000000000000000000",
        ),
        ([{"image_id": 10, "category_id": 10**20, "bbox": [1, 2, 3, 4], "score": 0.5}], "box, but none of category 5"),
        ([{"image_id": 10, "category_id": 5, "bbox": [1, 2, 1e300, 4], "score": 0.5}], "entry 0, bbox, 2: .*less than"),
        ([{"image_id": 10, "category_id": 5, "bbox": [-1e30, 2, 3, 4], "score": 0.5}], "entry 0, bbox, 0: .*greater"),
        ([{"image_id": 10, "category_id": 5, "bbox": [30, 30, 1e-7, 4], "score": 0.5}], "is too small"),
        ([{"image_id": 10, "category_id": 5, "bbox": [0, 0, 1e-40, 1e-40], "score": 0.5}], "is too small"),
        ([{"image_id": 10, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 1.001}], "entry 0, score: .*less than"),
        (None, "found.json: no such results file"),
    ],
)
def test_a_results_file_that_does_not_fit_is_one_line(tmp_path, results, message):
    if results is not None:
        (tmp_path / "found.json").write_text(results if isinstance(results, str) else json.dumps(results))
    with pytest.raises(DataError, match=message) as caught:
        figures(tmp_path, boxes="found.json", box_score_threshold=0.05)
    assert "\n" not in str(caught.value)


def test_a_dataset_with_other_keypoints_does_not_fit_a_model(tmp_path):
    write_figures(tmp_path)
    section = {"dataset": {"type": "CocoPoseDataset", "annotations": "figures.json", "images": "images"}}
    meta = DatasetMeta(("figure",), Skeleton(("nose",)))
    with pytest.raises(DataError, match="its keypoints are head, left_hand, right_hand"):
        build_dataset(section, data_root=tmp_path, training=False, meta=meta)


def test_coco_minis_people_are_those_of_the_file(real_data):
    root = real_data / "coco-mini"
    content = json.loads((root / "annotations/person_keypoints_train2017.json").read_text())
    labeled = [a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    dataset = CocoPoseDataset("annotations/person_keypoints_train2017.json", "train2017", data_root=root)
    assert sorted(dataset.annotation_ids.tolist()) == sorted(a["id"] for a in labeled)
    by_id = {a["id"]: a for a in labeled}
    for index in range(0, len(dataset), 17):
        numbers = by_id[int(dataset.annotation_ids[index])]["num_keypoints"]
        assert dataset.original(index).targets.describe(0) == f"{numbers} of 17 keypoints"
