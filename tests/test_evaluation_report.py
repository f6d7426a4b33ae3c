"""The COCO evaluation report: confusion matrix, TIDE errors, precision-recall curves, and their plots."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from coco_referee import Truth, detections, disturb_objects, measure
from matplotlib.figure import Figure
from PIL import Image

from chordate.evaluation.coco_report import CocoReport
from chordate.visualization import plot_report
from chordate.visualization.coco_report_plots import plot_classes, plot_confusion, plot_errors, plot_precision_recall
from chordate.visualization.training_curves import plot_metric

DOG, CAT = [100, 100, 150, 150], [20, 20, 60, 60]  # boxes as x1, y1, x2, y2 in pixels
BESIDE = [110, 110, 160, 160]  # overlaps the dog with IoU 0.47
NOWHERE = [170, 10, 190, 30]
CROWD = [0, 100, 80, 199]


def report(*rows: tuple[list[float], float, int]) -> dict:
    """The report for detections (box, score, label) in an image of a dog (label 0), a cat (1) and a crowd of dogs."""
    annotations = []
    for box, category, crowd in ((DOG, 1, 0), (CAT, 2, 0), (CROWD, 1, 1)):
        x1, y1, x2, y2 = box
        annotation = {"id": len(annotations) + 1, "image_id": 1, "category_id": category, "iscrowd": crowd}
        annotations.append({**annotation, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    images, categories = [{"id": 1, "width": 200, "height": 200}], [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    truth = Truth({"images": images, "annotations": annotations, "categories": categories})
    metric, _ = measure(truth, {1: detections(*([row[i] for row in rows] for i in range(3)))})
    return metric.report().by_iou_type["bbox"]


def counts(content: dict) -> dict[str, int]:
    return {kind: error["count"] for kind, error in content["errors"]["kinds"].items() if error["count"]}


RIGHT = [(DOG, 0.9, 0), (CAT, 0.8, 1)]


@pytest.mark.parametrize(
    "detected, matrix, errors",
    [
        (RIGHT, [[1, 0, 0], [0, 1, 0], [0, 0, 0]], {}),
        ([*RIGHT, (NOWHERE, 0.7, 1)], [[1, 0, 0], [0, 1, 0], [0, 1, 0]], {"Bkg": 1}),
        ([*RIGHT, (DOG, 0.7, 0)], [[1, 0, 0], [0, 1, 0], [1, 0, 0]], {"Dupe": 1}),
        ([(BESIDE, 0.9, 0), RIGHT[1]], [[0, 0, 1], [0, 1, 0], [1, 0, 0]], {"Loc": 1}),
        ([(DOG, 0.9, 1), RIGHT[1]], [[0, 1, 0], [0, 1, 0], [0, 0, 0]], {"Cls": 1}),
        ([(BESIDE, 0.9, 1), RIGHT[1]], [[0, 0, 1], [0, 1, 0], [0, 1, 0]], {"Both": 1, "Miss": 1}),
        ([RIGHT[1]], [[0, 0, 1], [0, 1, 0], [0, 0, 0]], {"Miss": 1}),
        ([(DOG, 0.4, 0), RIGHT[1]], [[0, 0, 1], [0, 1, 0], [0, 0, 0]], {}),  # score below the report's threshold
        ([*RIGHT, (CROWD, 0.7, 0)], [[1, 0, 0], [0, 1, 0], [1, 0, 0]], {}),  # a detection in a crowd is no TIDE error
    ],
    ids=["right", "background", "twice", "placed", "class", "both", "missed", "unsure", "crowd"],
)
def test_the_confusion_matrix_and_error_types_are_as_constructed(detected, matrix, errors):
    content = report(*detected)
    assert content["confusion"]["classes"] == ["dog", "cat", "background"]
    assert content["confusion"]["matrix"] == matrix
    assert counts(content) == errors


def test_the_gain_of_an_error_type_is_the_ap50_gained_by_fixing_it():
    """The cat's detection scores below a false positive, so the cat's AP50 is 1/2; the dog's is 1; the mean is 3/4."""
    content = report(RIGHT[0], (NOWHERE, 0.95, 1), RIGHT[1])
    assert content["errors"]["AP50"] == content["numbers"]["AP50"] == pytest.approx(0.75)
    assert content["errors"]["kinds"]["Bkg"]["gain"] == content["errors"]["FP"] == pytest.approx(0.25)
    assert content["errors"]["FN"] == pytest.approx(0)


@pytest.mark.parametrize("data", ["cells", "people"])
def test_the_area_under_each_curve_is_its_ap(request, data):
    if data == "cells":
        file = request.getfixturevalue("cells") / "coco.json"
    else:
        file = request.getfixturevalue("real_data") / "coco-mini/annotations/person_keypoints_val2017.json"
    truth = Truth(json.loads(file.read_text()))
    metric, numbers = measure(truth, disturb_objects(truth, np.random.default_rng(0)))
    for iou_type, content in metric.report().by_iou_type.items():
        curves = content["precision_recall"]
        areas = {iou: np.mean(precision) for iou, precision in curves["precision"].items()}
        assert np.mean(list(areas.values())) == pytest.approx(numbers[f"{iou_type}_AP"])
        assert areas["0.50"] == pytest.approx(numbers[f"{iou_type}_AP50"])
        assert areas["0.75"] == pytest.approx(numbers[f"{iou_type}_AP75"])
        for name in truth.meta.classes:
            assert np.mean(curves["by_class"][name]) == pytest.approx(content["per_class"][name]["AP50"])
        assert len(curves["recall"]) == len(curves["precision"]["0.50"]) == 101
        assert ("confusion" in content) == (iou_type != "keypoints")


def many_classes(count: int) -> CocoReport:
    """The report for `count` classes and one image with a detected object of each of the first four classes."""
    names = [f"a class with a long name {n}" for n in range(count)]
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": n + 1, "bbox": [40 * n, 5, 30, 30], "area": 900, "iscrowd": 0}
        for n in range(min(count, 4))
    ]
    truth = Truth(
        {
            "images": [{"id": 1, "width": 200, "height": 200}],
            "annotations": annotations,
            "categories": [{"id": n + 1, "name": name} for n, name in enumerate(names)],
        }
    )
    boxes = torch.tensor([[40 * n, 5, 40 * n + 30, 35] for n in range(min(count, 4))])
    return measure(truth, {1: detections(boxes, torch.linspace(0.9, 0.6, len(boxes)), range(len(boxes)))})[0].report()


# Larger counts are marked slow and test little more: at most four classes have ground truth and are drawn.
@pytest.mark.parametrize("count", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (5, 90))])
def test_plots_cut_off_no_text_and_have_a_readable_size(count, tmp_path):
    for path in plot_report(many_classes(count), tmp_path / "made")[1:]:
        picture = np.asarray(Image.open(path).convert("L"))
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == 255).all(), path  # text at the border would be cut off
        assert min(picture.shape) > 300 or path.stem.endswith("classes")
        assert max(picture.shape) < 3000, path
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "report.json", "bbox_precision_recall.png", "bbox_classes.png", "bbox_confusion.png", "bbox_errors.png",
    }  # fmt: skip


def test_classes_without_ground_truth_are_in_no_plot():
    content = many_classes(5).by_iou_type["bbox"]
    labels = [text.get_text() for text in plot_classes(content, "bbox").axes[0].get_yticklabels()]
    assert labels == [f"a class with a long name {n}  (1)" for n in range(4)]
    names = [text.get_text() for text in plot_confusion(content, "bbox").axes[0].get_yticklabels()]
    assert names == [*(f"a class with a long name {n}" for n in range(4)), "background"]
    left, right = plot_precision_recall(content, "bbox").axes
    assert len(left.lines) == 10 and len(right.lines) == 4


def test_a_report_without_detections_can_be_drawn():
    with pytest.warns(UserWarning, match="no detections"):
        content = report()
    assert content["numbers"]["AP"] == 0 and counts(content) == {"Miss": 2}
    for plot in (plot_classes, plot_confusion, plot_errors, plot_precision_recall):
        plot(content, "bbox").canvas.draw()


def test_the_metric_curve_of_a_model_with_masks_shows_box_and_mask_ap():
    numbers = {f"{kind}_{name}": 0.3 for kind in ("bbox", "segm") for name in ("AP", "AP50", "AP75", "APs", "AR100")}
    axis = Figure().add_subplot()
    plot_metric(axis, [{"mode": "val", "epoch": 1, "iteration": 1, **numbers}])
    assert [line.get_label() for line in axis.lines[::-1]] == ["bbox AP", "bbox AP50", "bbox AP75", "segm AP"]
    axis = Figure().add_subplot()
    plot_metric(axis, [{"mode": "val", "epoch": 1, "iteration": 1, "top1": 0.5, "top5": 0.7, "error": 0.5}])
    assert {"top1", "top5"} <= {line.get_label() for line in axis.lines}


@pytest.mark.parametrize("count", [1, 20, pytest.param(80, marks=pytest.mark.slow), 81])
def test_class_names_do_not_overlap_in_the_plot_for_any_number_of_classes(count):
    """Class names are in columns, sorted by descending AP; the figure's height is less than 1.5 times its width."""
    rng = np.random.default_rng(count)
    rows = {f"class {n}": {"AP": ap, "AP50": ap, "instances": 9} for n, ap in enumerate(rng.random(count))}
    figure = plot_classes({"per_class": rows, "numbers": {"AP": 0.5}}, "bbox")
    figure.canvas.draw()
    assert figure.get_figheight() < 1.5 * figure.get_figwidth()
    names = []
    for axis in figure.axes:
        labels = axis.get_yticklabels()[::-1]
        names += [label.get_text().split("  ")[0] for label in labels]
        boxes = [label.get_window_extent() for label in labels]
        assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert names == sorted(rows, key=lambda name: -rows[name]["AP"])
    texts = [text for axis in figure.axes for text in (*axis.texts, *axis.get_yticklabels())]
    extents = np.array([text.get_window_extent().extents for text in texts])
    low, high = extents[:, :2], extents[:, 2:]
    overlap = ((low[:, None] <= high) & (low <= high[:, None])).all(2)
    assert not np.triu(overlap, 1).any()
