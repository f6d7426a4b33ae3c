"""The report of PanopticMetric: PQ of each class, the images with the lowest PQ, and their predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from panoptic_files import NAMES, reader, write_panoptic
from PIL import Image
from test_panoptic_metric import slow_pq

from chordate.data import CocoPanoptic
from chordate.evaluation import PanopticMetric
from chordate.structures import PanopticMap
from chordate.visualization import plot_report

COUNT = 9


def shifted(dataset: CocoPanoptic, index: int) -> PanopticMap:
    """The ground truth of an image, shifted by a number of rows that differs between the images."""
    numbers, labels, _ = dataset.segments_of(int(dataset.image_ids[index]))
    ids = numbers.roll(index * 5 % COUNT, dims=0).int()
    areas = ids.flatten().bincount(minlength=len(labels) + 1)[1:]
    scores = torch.linspace(0.5, 1, len(labels))
    return PanopticMap(ids, labels, torch.from_numpy(dataset.is_thing)[labels], scores, areas)


@pytest.fixture
def evaluated(tmp_path: Path) -> tuple[PanopticMetric, list[PanopticMap]]:
    """A metric after the evaluation, and the predictions."""
    write_panoptic(tmp_path, COUNT)
    dataset = reader(tmp_path)
    metric = PanopticMetric(dataset=dataset)
    predictions = [shifted(dataset, index) for index in range(COUNT)]
    for index, prediction in enumerate(predictions):
        metric.update([prediction], dataset.collate([dataset[0, index]]))
    metric.compute()
    return metric, predictions


def test_the_worst_images_are_those_with_the_lowest_pq_of_the_paper(evaluated) -> None:
    metric, predictions = evaluated
    dataset, scores = metric.dataset, []
    for index, prediction in enumerate(predictions):
        truth = dataset.segments_of(int(dataset.image_ids[index]))
        scores.append(np.mean([pq for pq, _, _ in slow_pq([truth], [prediction], len(NAMES)).values()]))
    order = np.argsort(scores, kind="stable")[:6]
    worst = metric.report().worst
    assert [image.score for image in worst] == pytest.approx([scores[index] for index in order])
    assert len(set(scores)) > 5 and worst[0].score < worst[-1].score
    for image, index in zip(worst, order.tolist(), strict=True):
        assert image.original.infos[0].image_id == dataset.image_ids[index]
        for name in ("ids", "labels", "is_thing", "areas"):
            assert torch.equal(getattr(image.prediction, name), getattr(predictions[index], name))
        assert torch.allclose(image.prediction.scores, predictions[index].scores)


def test_the_files_of_the_report_have_the_numbers_and_pictures(evaluated, tmp_path: Path) -> None:
    metric, _ = evaluated
    written = plot_report(metric.report(), tmp_path / "report")
    assert [path.name for path in written] == ["report.json", "classes.png", "worst.png"]
    content = json.loads(written[0].read_text())
    assert content["numbers"] == metric.numbers and content["per_class"] == metric.per_class()
    assert [Path(row["file"]).suffix for row in content["worst"]] == [".jpg"] * 6
    assert content["worst"][0]["PQ"] == min(row["PQ"] for row in content["worst"])
    for path in written[1:]:
        assert np.array(Image.open(path)).std() > 10


def test_a_report_on_one_perfect_image_has_one_image_and_classes_without_segments_have_no_bar(tmp_path: Path) -> None:
    write_panoptic(tmp_path, 1)
    dataset = reader(tmp_path)
    metric = PanopticMetric(dataset=dataset)
    metric.update([shifted(dataset, 0)], dataset.collate([dataset[0, 0]]))
    metric.compute()
    report = metric.report()
    assert [image.score for image in report.worst] == [1.0]
    assert len(plot_report(report, tmp_path / "report")) == 3
