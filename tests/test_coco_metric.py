"""CocoMetric: COCO's twelve metrics on boxes, with both backends, in any order and any batches of the images."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from coco_referee import Truth, batch_of, detections, disturb, disturbed_file, measure, random_truth, referee
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from chordate.data.shapes import generate_shapes
from chordate.errors import ConfigError, DataError, TrainingError
from chordate.evaluation import CocoMetric
from chordate.registry import METRICS
from chordate.structures import Classification

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
KEYS = [f"bbox_{name}" for name in NAMES]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 12), classes=st.integers(1, 5))
def test_both_engines_and_pycocotools_itself_agree_on_random_data(seed, images, classes):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images, classes)
    predictions = disturb(truth, rng)
    if not any(len(d) for d in predictions.values()):
        return
    expected = referee(truth, predictions)
    for engine in ("hotcoco", "pycocotools"):
        _, numbers = measure(truth, predictions, engine=engine)
        assert list(numbers) == KEYS
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_both_engines_agree_on_the_boxes_of_real_photos(cells, seed):
    truth, predictions = disturbed_file(cells / "coco.json", seed)
    expected = referee(truth, predictions)
    assert 0.1 < expected[0] < 0.8
    for engine in ("hotcoco", "pycocotools"):
        _, numbers = measure(truth, predictions, engine=engine)
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_both_engines_agree_on_real_coco_labels(real_data, seed):
    truth, predictions = disturbed_file(real_data / "coco-mini/annotations/instances_val2017.json", seed)
    expected = referee(truth, predictions)
    assert 0.2 < expected[0] < 0.8 and min(expected) > 0.05  # trivial values would not distinguish the backends
    assert any(a["iscrowd"] for a in truth.content["annotations"])
    for engine in ("hotcoco", "pycocotools"):
        _, numbers = measure(truth, predictions, engine=engine)
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)


def test_both_engines_agree_on_the_generated_shapes(tmp_path):
    generate_shapes(tmp_path, train=0, val=60, size=128, seed=1)
    truth, predictions = disturbed_file(tmp_path / "annotations/val.json", 2)
    expected = referee(truth, predictions)
    assert 0.1 < expected[0] < 0.8
    for engine in ("hotcoco", "pycocotools"):
        _, numbers = measure(truth, predictions, engine=engine)
        np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)


def simple_truth(**extra) -> Truth:
    """Image 1 has an object of class `a` (20×20 px), image 2 one of `a` and one of `b` (50×50 px), image 3 none."""
    boxes = [(1, 4, [10, 10, 20, 20]), (2, 4, [10, 10, 50, 50]), (2, 9, [70, 70, 50, 50])]
    annotations = [
        {
            "id": n,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            **extra,
        }
        for n, (image, category, box) in enumerate(boxes, 1)
    ]
    images = [{"id": i, "width": 128, "height": 128} for i in (1, 2, 3)]
    categories = [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}]
    return Truth({"images": images, "annotations": annotations, "categories": categories})


def perfect(truth: Truth) -> dict:
    predictions = {}
    for image in truth.content["images"]:
        rows = [a for a in truth.content["annotations"] if a["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)]
        labels = [truth.category_ids.index(a["category_id"]) for a in rows]
        predictions[image["id"]] = detections(boxes, np.linspace(0.9, 0.8, len(rows)), labels)
    return predictions


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_perfect_detections_score_one_and_sizes_without_ground_truth_minus_one(engine):
    truth = simple_truth()
    _, numbers = measure(truth, perfect(truth), engine=engine)
    assert [name for name in NAMES if numbers[f"bbox_{name}"] == -1] == ["APl", "ARl"]  # no object is larger than 96²
    assert all(value == pytest.approx(1) for value in numbers.values() if value != -1)


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_a_false_positive_above_the_only_hit_halves_the_precision(engine):
    """Two detections, the wrong one first: precision is 1/2 at every recall, so AP = 1/2 (only `a` has objects)."""
    truth = simple_truth()
    truth.content["annotations"] = truth.content["annotations"][:1]
    truth = Truth(truth.content)
    boxes = [[60, 60, 90, 90], [10, 10, 30, 30]]
    predictions = {1: detections(boxes, [0.9, 0.8], [0, 0]), 2: detections([], [], []), 3: detections([], [], [])}
    _, numbers = measure(truth, predictions, engine=engine)
    assert numbers["bbox_AP"] == pytest.approx(0.5)
    assert (numbers["bbox_AR1"], numbers["bbox_AR10"]) == (0, 1)


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_no_detections_score_zero_with_a_warning(engine):
    truth = simple_truth()
    predictions = {i: detections([], [], []) for i in (1, 2, 3)}
    with pytest.warns(UserWarning, match="no detections in any image"):
        metric, numbers = measure(truth, predictions, engine=engine)
    assert [numbers[key] for key in KEYS] == [0, 0, 0, 0, 0, -1] * 2
    assert metric.predictions() == []


def test_images_that_were_never_evaluated_are_warned_of_and_count_as_missed():
    truth = simple_truth()
    with pytest.warns(UserWarning, match="2 of 3 images were not evaluated"):
        _, numbers = measure(truth, perfect(truth), order=[1])
    assert numbers["bbox_AR100"] == pytest.approx((0.5 + 0) / 2)  # recall: 1 of 2 objects of a, 0 of 1 of b


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("absent", [(), ("area", "iscrowd"), ("area", "bbox")])
def test_annotation_ids_from_zero_and_missing_fields_are_scored_correctly(engine, absent):
    truth = simple_truth()
    predictions = perfect(truth)
    for number, annotation in enumerate(truth.content["annotations"]):
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation["id"] = number
        for field in absent:
            del annotation[field]
    _, numbers = measure(Truth(truth.content), predictions, engine=engine)
    assert {name: numbers[f"bbox_{name}"] for name in ("AP", "APs", "APm", "APl")} == pytest.approx(
        {"AP": 1, "APs": 1, "APm": 1, "APl": -1}
    )


def test_numbers_do_not_depend_on_the_order_or_the_batches_or_on_repeated_images():
    rng = np.random.default_rng(5)
    truth = random_truth(rng, 12, 3)
    predictions = disturb(truth, rng)
    _, expected = measure(truth, predictions)
    order = rng.permutation(list(predictions)).tolist()
    assert measure(truth, predictions, order=order, batch_size=1)[1] == expected
    assert measure(truth, predictions, order=[*order, *order[:5]], batch_size=5)[1] == expected


def test_a_subset_of_the_classes_in_another_order_is_scored_alone():
    rng = np.random.default_rng(6)
    everything = random_truth(rng, 12, 4)
    truth = Truth(everything.content, classes=("class 3", "class 1"), category_ids=(11, 5))
    predictions = disturb(truth, rng)
    metric, numbers = measure(truth, predictions)
    np.testing.assert_allclose(list(numbers.values()), referee(truth, predictions), rtol=0, atol=1e-9)
    assert list(metric.per_class()["bbox"]) == ["class 3", "class 1"]
    for name, category in (("class 3", 11), ("class 1", 5)):
        alone = Truth(truth.content, classes=(name,), category_ids=(category,))
        label = truth.category_ids.index(category)
        chosen = {
            i: detections(d.boxes[m], d.scores[m], d.labels[m] * 0)
            for i, d in predictions.items()
            for m in [d.labels == label]
        }
        expected = referee(alone, chosen)
        numbers = metric.per_class()["bbox"][name]
        got = [numbers["AP"], numbers["AP50"], numbers["AR"]]
        np.testing.assert_allclose(got, [expected[0], expected[1], expected[8]], rtol=0, atol=1e-9)
        plain = [a for a in truth.content["annotations"] if a["category_id"] == category and not a["iscrowd"]]
        assert numbers["instances"] == len(plain)


def test_max_dets_limits_the_detections_and_names_the_recalls():
    rng = np.random.default_rng(7)
    truth = random_truth(rng, 10, 1)
    predictions = disturb(truth, rng)
    _, numbers = measure(truth, predictions, max_dets=(1, 2, 4))
    assert [key for key in numbers if "AR" in key][:3] == ["bbox_AR1", "bbox_AR2", "bbox_AR4"]
    # pycocotools always computes its first metric at 100 detections; the other metrics use max_dets
    np.testing.assert_allclose(
        list(numbers.values())[1:], referee(truth, predictions, (1, 2, 4))[1:], rtol=0, atol=1e-9
    )


def test_a_second_evaluation_starts_without_the_first_ones_detections():
    truth = simple_truth()
    metric, first = measure(truth, perfect(truth))
    metric.update([detections([[10, 10, 30, 30]], [0.9], [0]), *[detections([], [], [])] * 2], batch_of([1, 2, 3]))
    second = metric.compute()
    assert first["bbox_AP"] == pytest.approx(1) and 0 < second["bbox_AP"] < 0.5
    assert len(metric.predictions()) == 1


def test_saved_boxes_load_in_pycocotools_and_score_the_same(tmp_path, cells):
    truth, predictions = disturbed_file(cells / "coco.json", 3)
    metric, numbers = measure(truth, predictions)
    path = tmp_path / "detections.json"
    metric.save_predictions(path)
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(cells / "coco.json")
        judge = COCOeval(ground, ground.loadRes(str(path)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    np.testing.assert_allclose(judge.stats, list(numbers.values()), atol=2e-3)
    row = json.loads(path.read_text())[0]
    assert list(row) == ["image_id", "category_id", "file_name", "bbox", "score"]
    names = {image["id"]: image["file_name"] for image in truth.content["images"]}
    assert all(row["file_name"] == names[row["image_id"]] for row in json.loads(path.read_text()))
    assert isinstance(row["image_id"], int) and isinstance(row["category_id"], int)
    assert all(len(repr(x).split(".")[1]) <= 5 for x in [*row["bbox"], row["score"]])


def test_the_table_has_a_row_per_class_with_aligned_columns():
    rng = np.random.default_rng(8)
    truth = random_truth(rng, 12, 3)
    truth.content["categories"].append({"id": 99, "name": "never seen"})
    truth = Truth(truth.content)
    metric, numbers = measure(truth, disturb(truth, rng))
    console = Console(file=io.StringIO(), width=80)
    console.print(metric.table())
    text = console.file.getvalue()
    rows = [line.rstrip() for line in text.splitlines() if line.startswith("  ") and line.strip()]
    lines = {row.split("  ")[1].strip(): row for row in rows}
    assert f"{metric.per_class()['bbox']['class 1']['AP']:.3f}" in lines["class 1"]
    assert f"{numbers['bbox_AP']:.3f}" in lines["all"]
    assert lines["never seen"].split()[2:] == ["–", "–", "–", "0"]
    assert len({len(line) for line in lines.values()}) == 1  # numbers are right-aligned
    shown = {name: f"{value:.3f}" if value > -1 else "–" for name, value in zip(NAMES, numbers.values())}
    assert list(numbers) == KEYS
    assert all(f"{name:<5} {value:>5}" in text for name, value in shown.items())  # lines are not wrapped


def test_a_label_beyond_the_classes_is_an_error_that_names_the_image():
    metric = CocoMetric(simple_truth())
    with pytest.raises(DataError, match=r"2\.jpg.*label 2.*2 classes"):
        metric.update([detections([], [], []), detections([[0, 0, 9, 9]], [0.5], [2])], batch_of([1, 2]))


def test_an_image_of_another_dataset_is_an_error():
    metric = CocoMetric(simple_truth())
    metric.update([detections([], [], [])], batch_of([77]))
    with pytest.raises(DataError, match="image 77 has predictions, but is not in the metric's dataset"):
        metric.compute()


def test_predictions_of_another_task_are_an_error():
    metric = METRICS.build("CocoMetric", dataset=simple_truth())
    with pytest.raises(DataError, match="CocoMetric evaluates Detections; the model predicts Classification"):
        metric.update([Classification(torch.ones(2))], batch_of([1]))
    metric = METRICS.build("AccuracyMetric", dataset=simple_truth())
    with pytest.raises(DataError, match="AccuracyMetric evaluates Classifications; the model predicts Detections"):
        metric.update([detections([], [], [])], batch_of([1]))
    with pytest.raises(DataError, match=r"1\.jpg: accuracy needs a true class"):
        metric.update([Classification(torch.ones(2))], batch_of([1]))


@pytest.mark.parametrize("box, score", [([0, 0, 9, 9], np.nan), ([0, np.inf, 9, 9], 0.5)])
def test_detections_that_are_not_finite_are_an_error(box, score):
    metric = CocoMetric(simple_truth())
    with pytest.raises(TrainingError, match=r"1\.jpg.*NaN"):
        metric.update([detections([box], [score], [0])], batch_of([1]))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"engine": "hotcocoa"}, r'engine must be one of .*did you mean "hotcoco"\?\), got "hotcocoa"'),
        ({"iou_types": ("box",)}, r'iou_types.* must be one of "bbox", .*, got "box"'),
        ({"iou_types": "bbox"}, 'iou_types must be a list of .*, got "bbox"'),
        ({"iou_types": ()}, r"iou_types must be a list .* at least 1 item.*, got \(\)"),
        ({"max_dets": 100}, "max_dets must be a list of 3 strictly increasing numbers, got 100"),
        ({"max_dets": ("a", 2, 3)}, 'max_dets.* must be an integer ≥ 1, got "a"'),
        ({"max_dets": (100, 10, 1)}, "max_dets must be a list of 3 strictly increasing numbers, got"),
        ({"max_dets": (1, 10, 10)}, "max_dets must be a list of 3 strictly increasing numbers, got"),
        ({"max_dets": (100,)}, "max_dets must be a list of 3 strictly increasing numbers, got"),
    ],
)
def test_wrong_settings_are_refused_when_the_metric_is_built(wrong, message):
    with pytest.raises(ConfigError, match=message):
        METRICS.build({"type": "CocoMetric", **wrong}, dataset=simple_truth())
