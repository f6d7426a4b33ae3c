"""CocoMetric on masks and keypoints: both backends agree with pycocotools, and nothing is dropped silently."""

import contextlib
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_referee import Truth, batch_of, detections, disturb_objects, measure, referee
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import forkserver
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from chordate.data.shapes import generate_shapes
from chordate.errors import ConfigError, DataError, TrainingError
from chordate.evaluation import CocoMetric
from chordate.evaluation.coco_metric import PERSON_SIGMAS
from chordate.evaluation.packed_detections import PackedDetections
from chordate.registry import METRICS

ENGINES = ("hotcoco", "pycocotools")
OF_KEYPOINTS = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


def values(numbers: dict[str, float], iou_type: str) -> list[float]:
    return [value for name, value in numbers.items() if name.startswith(f"{iou_type}_")]


def disturbed(path: Path, seed: int) -> tuple[Truth, dict]:
    truth = Truth(json.loads(path.read_text()))
    return truth, disturb_objects(truth, np.random.default_rng(seed))


def without(predictions: dict, *names: str) -> dict:
    return {i: replace(d, **dict.fromkeys(names)) for i, d in predictions.items()}


def assert_judged_as_pycocotools_does(truth: Truth, predictions: dict, iou_types: set[str]) -> dict[str, float]:
    """Compares both backends with pycocotools; returns the metrics."""
    expected = {iou_type: referee(truth, predictions, iou_type=iou_type) for iou_type in iou_types}
    assert all(0.1 < stats[0] < 0.8 for stats in expected.values())  # a trivial AP would not distinguish the backends
    for engine in ENGINES:
        _, numbers = measure(truth, predictions, engine=engine)
        assert {name.split("_")[0] for name in numbers} == iou_types
        for iou_type in iou_types:
            np.testing.assert_allclose(values(numbers, iou_type), expected[iou_type], rtol=0, atol=1e-9)
    return numbers


def test_masks_of_real_coco_objects_are_scored_as_by_pycocotools(real_data):
    content = json.loads((real_data / "coco-mini/annotations/instances_val2017.json").read_text())
    content["images"] = content["images"][35:60]  # with all images, this would take seconds
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    truth = Truth(content)
    predictions = disturb_objects(truth, np.random.default_rng(0))
    assert any(a["iscrowd"] for a in truth.content["annotations"])
    numbers = assert_judged_as_pycocotools_does(truth, predictions, {"bbox", "segm"})
    assert min(numbers.values()) > 0.05  # no metric is -1: there are objects of every size


def test_keypoints_of_real_people_are_scored_as_by_pycocotools(real_data):
    truth, predictions = disturbed(real_data / "coco-mini/annotations/person_keypoints_val2017.json", 0)
    assert any(a["iscrowd"] for a in truth.content["annotations"])
    numbers = assert_judged_as_pycocotools_does(truth, predictions, {"bbox", "segm", "keypoints"})
    assert [name for name in numbers if name.startswith("keypoints")] == [f"keypoints_{name}" for name in OF_KEYPOINTS]


def test_masks_of_generated_shapes_are_scored_as_by_pycocotools(tmp_path):
    generate_shapes(tmp_path, train=0, val=30, size=96, seed=1)
    assert_judged_as_pycocotools_does(*disturbed(tmp_path / "annotations/val.json", 2), {"bbox", "segm"})


def random_points(rng: np.random.Generator, images: int, keypoints: int, **left_out) -> Truth:
    """Random objects with keypoints (some not visible), crowds, and objects of a second class without keypoints."""
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(int(rng.integers(0, 4))):
            corner, side = rng.uniform(0, 60, 2), rng.uniform(20, 150, 2)
            place = corner + rng.uniform(0, 1, (keypoints, 2)) * side
            seen = rng.integers(0, 3, (keypoints, 1)) * (rng.random() < 0.9)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": 5 if rng.random() < 0.8 else 2,
                "bbox": [*corner.tolist(), *side.tolist()],
                "area": float(side.prod() / 2),
                "iscrowd": int(rng.random() < 0.1),
            }
            if annotation["category_id"] == 5:
                annotation["keypoints"] = np.hstack([place, seen]).ravel().tolist()
                annotation["num_keypoints"] = int((seen > 0).sum())
            annotations.append(annotation)
    categories = [
        {"id": 2, "name": "stone"},
        {"id": 5, "name": "fish", "keypoints": [f"point {n}" for n in range(keypoints)]},
    ]
    images_ = [{"id": i, "width": 224, "height": 224} for i in range(1, images + 1)]
    return Truth({"images": images_, "annotations": annotations, "categories": categories})


def with_points_for_all(predictions: dict, keypoints: int) -> dict:
    """Adds keypoints to detections of all classes, as a keypoint head predicts them, and removes the masks."""
    complete = {}
    for image_id, d in predictions.items():
        points = torch.zeros(len(d), keypoints, 3)
        if d.keypoints is not None:
            points[d.labels == 1] = d.keypoints
        complete[image_id] = replace(d, masks=None, keypoints=points)
    return complete


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 10), keypoints=st.integers(1, 20))
def test_any_number_of_keypoints_is_scored_as_by_pycocotools(seed, images, keypoints):
    rng = np.random.default_rng(seed)
    truth = random_points(rng, images, keypoints)
    predictions = with_points_for_all(disturb_objects(truth, rng), keypoints)
    if not any((d.labels == 1).any() for d in predictions.values()):
        return
    fish = Truth(truth.content, classes=("fish",), category_ids=(5,))
    alone = {i: replace(d[d.labels == 1], labels=d.labels[d.labels == 1] * 0) for i, d in predictions.items()}
    sigmas = rng.uniform(0.02, 0.2, keypoints).tolist()
    expected = referee(fish, alone, iou_type="keypoints", sigmas=sigmas)
    for engine in ENGINES:
        metric, numbers = measure(truth, predictions, engine=engine, keypoint_sigmas=sigmas)
        np.testing.assert_allclose(values(numbers, "keypoints"), expected, rtol=0, atol=1e-9)
        assert list(metric.per_class()["keypoints"]) == ["fish"]
        assert metric.per_class()["keypoints"]["fish"]["AP"] == pytest.approx(expected[0])


def boxes_masks_and_points(seed: int) -> tuple[Truth, dict]:
    """Random objects with masks (those of one class also with keypoints), and detections with masks and keypoints."""
    rng = np.random.default_rng(seed)
    truth = random_points(rng, 8, 3)
    for annotation in truth.content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    truth = Truth(truth.content)
    predictions = disturb_objects(truth, rng)
    points = with_points_for_all(predictions, 3)
    return truth, {i: replace(points[i], masks=d.masks) for i, d in predictions.items()}


def one_fish(count: int, offset: float = 0.0, sigmas=None, engine="hotcoco", **changed) -> dict[str, float]:
    """Metrics of a detection whose keypoints are `offset` px too far to the right; the object's area is 100 px²."""
    points = np.array([[10 + 3 * n, 20, 2] for n in range(count)])
    annotation = {
        "id": 0, "image_id": 1, "category_id": 5, "bbox": [10, 15, 20, 10], "area": 100, "iscrowd": 0,
        "keypoints": points.ravel().tolist(), "num_keypoints": count, **changed,
    }  # fmt: skip
    category = {"id": 5, "name": "fish", "keypoints": [f"point {n}" for n in range(count)]}
    images = [{"id": 1, "width": 224, "height": 224}]
    kept = {name: value for name, value in annotation.items() if value is not None}
    truth = Truth({"images": images, "annotations": [kept], "categories": [category]})
    predictions = replace(
        detections([[10, 15, 30, 25]], [0.9], [0]),
        keypoints=torch.tensor(points + np.array([0.5 + offset, 0.5, 0]))[None],
    )
    return measure(truth, {1: predictions}, keypoint_sigmas=sigmas, engine=engine)[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_object_keypoint_similarity_is_a_gaussian_of_the_distance(engine):
    """OKS = exp(-d² / (2 s² κ²)) with area s² and κ = 2 sigma (cocodataset.org/#keypoints-eval).

    AP of one object is the fraction of the thresholds 0.50, 0.55 … 0.95 that its OKS reaches.
    """
    for sigma in (0.05, 0.1):
        for offset in (0.3, 0.6, 0.9, 1.2):
            similarity = np.exp(-(offset**2) / (2 * 100 * (2 * sigma) ** 2))
            expected = np.mean(np.arange(0.5, 0.96, 0.05) <= similarity)
            numbers = one_fish(3, offset, [sigma] * 3, engine)
            assert numbers["keypoints_AP"] == pytest.approx(expected), (sigma, offset, similarity)


def test_keypoints_of_another_number_than_a_persons_get_the_mean_sigma():
    for offset in (0.5, 0.8, 1.1):
        uniform = one_fish(4, offset, [float(np.mean(PERSON_SIGMAS))] * 4)
        assert one_fish(4, offset) == uniform
    mean = [float(np.mean(PERSON_SIGMAS))] * 17
    assert one_fish(17, 1.5) == one_fish(17, 1.5, PERSON_SIGMAS) != one_fish(17, 1.5, mean)


@pytest.mark.parametrize("engine", ENGINES)
def test_counts_of_visible_keypoints_may_be_left_out(engine):
    assert one_fish(3, num_keypoints=None, engine=engine)["keypoints_AP"] == pytest.approx(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert one_fish(3, keypoints=None, num_keypoints=None, engine=engine)["keypoints_AP"] == -1  # no ground truth


def test_saved_masks_and_keypoints_load_in_pycocotools_and_score_the_same(tmp_path, real_data):
    file = real_data / "coco-mini/annotations/person_keypoints_val2017.json"
    truth, predictions = disturbed(file, 3)
    metric, numbers = measure(truth, predictions)
    path = tmp_path / "detections.json"
    metric.save_predictions(path)
    rows = json.loads(path.read_text())
    assert list(rows[0]) == [*("image_id", "category_id", "file_name", "bbox", "segmentation", "keypoints", "score")]
    of_own = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
    for iou_type, field in of_own.items():
        # loadRes computes areas from boxes if there are boxes, so boxes, masks and keypoints are loaded separately.
        alone = [{k: v for k, v in row.items() if k not in set(of_own.values()) - {field}} for row in rows]
        with contextlib.redirect_stdout(io.StringIO()):
            ground = COCO(file)
            judge = COCOeval(ground, ground.loadRes(alone), iou_type)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            ground.loadRes(str(path))  # the complete file must load as well
        np.testing.assert_allclose(judge.stats, values(numbers, iou_type), atol=2e-3)


def test_saved_masks_and_keypoints_are_those_of_the_annotations(tmp_path, real_data):
    """Saved keypoints are integer pixel indices as in COCO; in detections, pixel centers are at +0.5."""
    truth = Truth(json.loads((real_data / "coco-mini/annotations/person_keypoints_val2017.json").read_text()))
    own = [a for a in truth.content["annotations"] if a["image_id"] == truth.content["annotations"][0]["image_id"]]
    masks = np.array([truth.coco.ann_to_mask(a) for a in own]) > 0
    points = torch.tensor([a["keypoints"] for a in own], dtype=torch.float32).reshape(-1, 17, 3)
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in own)]
    predictions = replace(
        detections(boxes, np.ones(len(own)), np.zeros(len(own))),
        masks=torch.from_numpy(masks),
        keypoints=points + torch.tensor([0.5, 0.5, 0]),
    )
    with pytest.warns(UserWarning, match="were not evaluated"):
        metric, _ = measure(truth, {own[0]["image_id"]: predictions})
    for row, annotation in zip(metric.predictions(), own, strict=True):
        assert row["keypoints"] == annotation["keypoints"]
        assert row["segmentation"]["counts"].encode() == truth.coco.ann_to_rle(annotation)["counts"]


def test_masks_and_keypoints_in_predictions_are_scored_by_default():
    truth, predictions = boxes_masks_and_points(4)
    kinds = [
        ((), {"bbox", "segm", "keypoints"}),
        (("masks",), {"bbox", "keypoints"}),
        (("masks", "keypoints"), {"bbox"}),
    ]
    for absent, expected in kinds:
        _, numbers = measure(truth, without(predictions, *absent))
        assert {name.split("_")[0] for name in numbers} == expected
    _, numbers = measure(truth, predictions, iou_types=["segm"])
    assert {name.split("_")[0] for name in numbers} == {"segm"}


def test_a_mask_model_without_detections_has_a_mask_ap_of_zero():
    truth, _ = boxes_masks_and_points(4)
    empty = detections([], [], [])
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth.content["images"]}
    predictions = {i: replace(empty, masks=torch.zeros(0, *size, dtype=torch.bool)) for i, size in sizes.items()}
    with pytest.warns(UserWarning, match="no detections"):
        _, numbers = measure(truth, predictions)
    assert numbers["bbox_AP"] == numbers["segm_AP"] == 0
    for engine in ENGINES:
        with pytest.warns(UserWarning, match="no detections"):
            _, numbers = measure(truth, without(predictions, "masks"), iou_types=["segm"], engine=engine)
        assert numbers["segm_AP"] == 0


def test_scoring_masks_or_keypoints_that_the_data_lacks_is_refused():
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    outline = {"segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}
    images, categories = [{"id": 1, "width": 9, "height": 9}], [{"id": 1, "name": "a"}]
    plain = Truth({"images": images, "annotations": [box], "categories": categories})
    half = Truth({"images": images, "annotations": [box, {**box, "id": 2, **outline}], "categories": categories})
    predictions = detections([[1, 1, 6, 6]], [0.9], [0])
    predictions.masks = torch.ones(1, 9, 9, dtype=torch.bool)
    with pytest.warns(UserWarning, match="masks are not evaluated, because the annotations have none"):
        assert {name.split("_")[0] for name in measure(plain, {1: predictions})[1]} == {"bbox"}
    with pytest.raises(DataError, match="1 of 2 annotations have no segmentation.*iou_types"):
        measure(half, {1: predictions})
    with pytest.raises(DataError, match="1 of 1 annotations have no segmentation"):
        CocoMetric(plain, iou_types=["bbox", "segm"])
    with pytest.raises(DataError, match='no category of the annotations has "keypoints"'):
        CocoMetric(plain, iou_types=["keypoints"])
    predictions = replace(predictions, masks=None, keypoints=torch.zeros(1, 4, 3))
    with pytest.warns(UserWarning, match="keypoints are not evaluated, because the annotations have none"):
        assert {name.split("_")[0] for name in measure(plain, {1: predictions})[1]} == {"bbox"}


def test_predictions_without_the_requested_masks_or_keypoints_are_an_error():
    truth = random_points(np.random.default_rng(3), 4, 3)
    metric = CocoMetric(truth, iou_types=["bbox", "keypoints"])
    with pytest.raises(DataError, match=r'predicts no keypoints; remove "keypoints" from metric\.iou_types'):
        metric.update([detections([[0, 0, 9, 9]], [0.5], [0])], batch_of([1]))
    predictions = replace(detections([[0, 0, 9, 9]], [0.5], [0]), keypoints=torch.zeros(1, 4, 3))
    with pytest.raises(DataError, match="predicts 4 keypoints, but the annotations have 3"):
        CocoMetric(truth).update([predictions], batch_of([1]))
    with pytest.raises(ConfigError, match="has 2 numbers, but the annotations have 3 keypoints"):
        CocoMetric(truth, keypoint_sigmas=[0.1, 0.1])
    with pytest.raises(ConfigError, match="keypoint_sigmas.* must be > 0, got 0"):
        METRICS.build({"type": "CocoMetric", "keypoint_sigmas": [0.1, 0, 0.1]}, dataset=truth)
    with pytest.raises(ConfigError, match='iou_types.* must be one of .*, got "mask"'):
        METRICS.build({"type": "CocoMetric", "iou_types": ["bbox", "mask"]}, dataset=truth)


def test_masks_of_another_size_or_for_some_detections_only_are_an_error():
    metric = CocoMetric(random_points(np.random.default_rng(3), 4, 3))
    one = detections([[0, 0, 9, 9]], [0.5], [0])
    with pytest.raises(DataError, match=r"1\.jpg: the masks have 64×32 px, but the image has 128×128"):
        metric.update([replace(one, masks=torch.zeros(1, 32, 64, dtype=torch.bool))], batch_of([1]))
    masked = replace(one, masks=torch.zeros(1, 128, 128, dtype=torch.bool))
    with pytest.raises(DataError, match="some detections of a batch have masks"):
        metric.update([masked, one], batch_of([1, 2]))
    metric.update([masked], batch_of([1]))
    metric.update([one], batch_of([2]))
    with pytest.raises(DataError, match="predicted masks for some images"):
        metric.compute()
    metric = CocoMetric(random_points(np.random.default_rng(3), 4, 3))
    with pytest.raises(TrainingError, match="NaN"):
        metric.update([replace(one, keypoints=torch.full((1, 3, 3), torch.nan))], batch_of([1]))


def test_the_table_has_a_part_for_boxes_masks_and_keypoints():
    truth, predictions = boxes_masks_and_points(6)  # seed 6 gives objects of every size
    metric, numbers = measure(truth, predictions)
    console = Console(file=io.StringIO(), width=80)
    console.print(metric.table())
    text = console.file.getvalue()
    assert [text.count(f"class ({kind})") for kind in ("bbox", "segm", "keypoints")] == [1, 1, 1]
    assert all(f"{name:<5} {numbers[f'keypoints_{name}']:>5.3f}" in text for name in OF_KEYPOINTS)
    fish = [a for a in truth.content["annotations"] if a["category_id"] == 5 and not a["iscrowd"]]
    counts = {kind: rows["fish"]["instances"] for kind, rows in metric.per_class().items()}
    annotated = sum(a["num_keypoints"] > 0 for a in fish)
    assert counts == {"bbox": len(fish), "segm": len(fish), "keypoints": annotated}


def _rank(rank: int, world_size: int, folder: str) -> None:
    """Runs one of two ranks: each rank evaluates every second image, and both evaluate the first image."""
    truth, predictions = boxes_masks_and_points(5)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world_size)
    order = sorted(predictions)
    metric, numbers = measure(truth, predictions, order=dict.fromkeys([*order[rank::world_size], order[0]]))
    Path(folder, f"{rank}.json").write_text(json.dumps([numbers, metric.predictions()]))
    torch.distributed.destroy_process_group()


def test_two_ranks_get_the_numbers_of_one_process_and_count_no_image_twice(tmp_path):
    ranks = [forkserver().Process(target=_rank, args=(rank, 2, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    metric, expected = measure(*boxes_masks_and_points(5))
    assert all(0 < expected[f"{kind}_AP"] < 1 for kind in ("bbox", "segm", "keypoints"))
    for rank in range(2):
        numbers, rows = json.loads((tmp_path / f"{rank}.json").read_text())
        assert numbers == expected
        assert rows == metric.predictions()


def test_a_rank_without_images_changes_no_result():
    truth, predictions = boxes_masks_and_points(6)
    batches = [PackedDetections.pack(batch_of([i], truth).infos, [predictions[i]], 2) for i in sorted(predictions)]
    whole, empty = PackedDetections.concatenate(batches), PackedDetections.concatenate([])
    joined = PackedDetections.concatenate([empty, *batches, empty]).unique()
    types = ("bbox", "segm", "keypoints")
    assert joined.to_results((2, 5), types) == whole.to_results((2, 5), types)
    assert empty.masks is None
