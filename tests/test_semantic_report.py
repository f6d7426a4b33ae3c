"""SemanticMetric: boundary IoU, classes without ground truth, several ranks, and the report with its plots."""

from __future__ import annotations

import io
import json
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from chordate.errors import NothingToEvaluate
from chordate.evaluation import SemanticMetric
from chordate.evaluation.boundary_iou import boundary
from chordate.structures import IGNORED, Batch, DatasetMeta, ImageInfo, SemanticMap, SemanticTargets
from chordate.visualization import plot_report

META = DatasetMeta(("sky", "road", "car", "ghost"), palette=((0, 0, 255), (200, 0, 0), (0, 200, 0), (9, 9, 9)))


class Truth:
    """A dataset with the given labels."""

    def __init__(self, labels: list[torch.Tensor], meta: DatasetMeta = META):
        self.meta, self.labels, self.label_ids = meta, labels, range(len(meta.classes))

    def labels_of(self, index: int) -> torch.Tensor:
        return self.labels[index]

    def original(self, index: int) -> Batch:
        size = tuple(self.labels[index].shape)
        image = torch.full((1, 3, *size), 120, dtype=torch.uint8)
        targets = SemanticTargets(self.labels[index][None].short())
        return Batch(image, torch.tensor([size]), [ImageInfo(index, f"{index}.png", *size)], targets)


def regions(count: int = 3) -> list[torch.Tensor]:
    """Label maps of different sizes, with smooth regions of three classes and some ignored pixels."""
    random = np.random.default_rng(0)
    labels = []
    for number in range(count):
        noise = random.normal(size=(3, 60 + number, 80)).astype(np.float32)
        smooth = np.stack([cv2.GaussianBlur(channel, (0, 0), 6) for channel in noise])
        labels.append(torch.from_numpy(smooth.argmax(0)).short())
        labels[-1][:5, 10:30] = IGNORED
    return labels


def shifted(labels: torch.Tensor, by: int) -> torch.Tensor:
    return torch.roll(labels.clamp(min=0), (by, by), (0, 1))


def evaluate(truth: list[torch.Tensor], predicted: list[torch.Tensor], **settings) -> SemanticMetric:
    metric = SemanticMetric(dataset=Truth(truth), **settings)
    for index, labels in enumerate(predicted):
        info = ImageInfo(index, f"{index}.png", *labels.shape)
        metric.update([SemanticMap(labels.short())], Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 2), [info]))
    metric.compute()
    return metric


def eroded_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """The boundary of a mask by definition: the pixels that `distance` erosions with a 3×3 kernel remove."""
    padded = np.pad(mask.astype(np.uint8), 1)
    for _ in range(distance):
        shifts = [np.roll(padded, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        padded = np.minimum.reduce(shifts) * np.pad(np.ones_like(mask, np.uint8), 1)
    return mask & (padded[1:-1, 1:-1] == 0)


@pytest.mark.parametrize("distance", [1, 2, 5])
def test_the_boundary_of_all_classes_is_that_of_each_class(distance):
    for labels in regions():
        labels = labels.numpy()
        together = boundary(labels, distance)
        for label in np.unique(labels):
            mask = labels == label
            assert np.array_equal(together & mask, eroded_boundary(mask, distance))


def test_boundary_iou_is_the_formula_of_the_paper():
    truth = regions()
    predicted = [shifted(labels, 2) for labels in truth]
    metric = evaluate(truth, predicted, boundary=0.03)
    both, either = np.zeros(3), np.zeros(3)
    for t, p in zip(truth, predicted):
        t, distance = t.numpy(), round(0.03 * np.hypot(*t.shape))
        p = np.where(t == IGNORED, IGNORED, p.numpy())
        for label in range(3):
            a, b = eroded_boundary(t == label, distance), eroded_boundary(p == label, distance)
            both[label] += (a & b).sum()
            either[label] += (a | b).sum()
    found = [metric.per_class()[name]["boundary_IoU"] for name in META.classes]
    assert found == pytest.approx([*(both / either), -1])
    assert metric.numbers["boundary_mIoU"] == pytest.approx((both / either).mean())
    assert metric.numbers["boundary_mIoU"] < metric.numbers["mIoU"]  # shifted labels are wrong near the outlines


def test_a_perfect_prediction_has_boundary_iou_1_next_to_ignored_pixels_too():
    truth = regions()
    assert evaluate(truth, [labels.clamp(min=0) for labels in truth], boundary=0.02).numbers["boundary_mIoU"] == 1


def test_a_class_without_ground_truth_is_left_out_even_if_it_is_predicted():
    truth = [torch.zeros(10, 10, dtype=torch.int16)]
    truth[0][5:] = 1
    predicted = truth[0].clone()
    predicted[0, :5] = 3  # pixels predicted as the class ghost, which is not in the ground truth
    metric = evaluate(truth, [predicted])
    assert metric.numbers["mIoU"] == pytest.approx((45 / 50 + 1) / 2)
    assert metric.per_class()["ghost"] == {"IoU": -1, "Acc": -1, "pixels": 0}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(metric.table())
    text = console.export_text()
    assert "mean of 2" in text and "2 of 4 classes are not in the ground truth: car, ghost" in text
    row = next(line for line in text.splitlines() if line.split()[:1] == ["ghost"])
    assert row.split()[1:3] == ["–", "–"]


def test_ranks_give_the_numbers_of_one_process(monkeypatch):
    """Each rank has half of the images; all_gather_object is replaced by a function that returns both ranks' values."""
    truth = regions(8)
    predicted = [shifted(labels, number) for number, labels in enumerate(truth)]
    alone = evaluate(truth, predicted, boundary=0.02)
    ranks = []
    for rank in range(2):
        metric = SemanticMetric(dataset=Truth(truth), boundary=0.02)
        for index in range(rank, 8, 2):
            info = ImageInfo(index, f"{index}.png", *truth[index].shape)
            prediction = SemanticMap(predicted[index])
            metric.update([prediction], Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 2), [info]))
        ranks.append(metric)
    barrier, values, results = threading.Barrier(2), {}, {}
    names = {}

    def gather(value):
        rank = names[threading.get_ident()]
        values[rank] = value
        barrier.wait()
        gathered = [values[0], values[1]]
        barrier.wait()
        return gathered

    def compute(rank):
        names[threading.get_ident()] = rank
        results[rank] = ranks[rank].compute()

    monkeypatch.setattr("chordate.evaluation.semantic_metric.all_gather_object", gather)
    threads = [threading.Thread(target=compute, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == alone.numbers
    worst = [[image.original.infos[0].image_id for image in metric.report().worst] for metric in (*ranks, alone)]
    assert worst[0] == worst[1] == worst[2] and len(worst[2]) == 6


def test_the_report_has_the_confusion_matrix_and_the_worst_images(tmp_path):
    truth = regions(8)
    predicted = [shifted(labels, 2 * number) for number, labels in enumerate(truth)]
    metric = evaluate(truth, predicted, boundary=0.02)
    written = plot_report(metric.report(), tmp_path / "report")
    assert [path.name for path in written] == ["report.json", "classes.png", "confusion.png", "worst.png"]
    content = json.loads(written[0].read_text())
    matrix = np.zeros((4, 4), int)
    for t, p in zip(truth, predicted):
        np.add.at(matrix, (t.numpy()[t.numpy() >= 0], p.numpy()[t.numpy() >= 0]), 1)
    assert content["confusion"]["matrix"] == matrix.tolist() and content["numbers"] == metric.numbers
    scores = {}
    for number, (t, p) in enumerate(zip(truth, predicted)):
        known = t >= 0
        pairs = [((t == k) & (p == k) & known, ((t == k) | (p == k)) & known) for k in range(4) if (t == k).any()]
        scores[f"{number}.png"] = float(np.mean([(a.sum() / b.sum()).item() for a, b in pairs]))
    expected = sorted(scores, key=scores.__getitem__)[:6]
    assert [row["file"] for row in content["worst"]] == expected
    assert [row["IoU"] for row in content["worst"]] == pytest.approx([scores[name] for name in expected])
    for path in written[1:]:
        assert np.array(Image.open(path)).std() > 10


def test_an_evaluation_starts_anew_after_its_numbers():
    truth = regions(2)
    metric = evaluate(truth, [shifted(labels, 3) for labels in truth], boundary=0.02)
    for index, labels in enumerate(truth):
        info = ImageInfo(index, f"{index}.png", *labels.shape)
        metric.update([SemanticMap(labels.clamp(min=0))], Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 2), [info]))
    assert set(metric.compute().values()) == {1.0}


@pytest.mark.parametrize(("height", "text"), [(20, "1,200 pixels"), (20_000, "1.2 M pixels")])
def test_the_table_states_the_number_of_pixels_of_small_and_large_sets(height, text):
    labels = torch.zeros(height, 60, dtype=torch.int16)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(evaluate([labels], [labels]).table())
    assert text in console.export_text() and "0.0 M" not in console.export_text()


def test_an_evaluation_without_a_labeled_pixel_is_an_error():
    truth = [torch.full((6, 8), IGNORED, dtype=torch.int16)]
    with pytest.raises(NothingToEvaluate, match="SemanticMetric: no labeled pixel was evaluated"):
        evaluate(truth, [torch.zeros(6, 8, dtype=torch.int16)])
