"""PoseMetric: COCO's keypoint AP of poses that are predicted from crops, and OKS NMS."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from coco_referee import referee
from stick_figures import detected, write_figures

from chordate.data import CocoPoseDataset
from chordate.errors import DataError
from chordate.evaluation import PoseMetric
from chordate.evaluation.oks_nms import oks, oks_nms
from chordate.registry import METRICS
from chordate.structures import Batch, Detections, ImageInfo, Poses

CROP = [{"type": "TopDownCrop", "size": (64, 48)}]


def perfect(dataset: CocoPoseDataset, index: int, score: float = 1.0, shift: float = 0.0) -> Poses:
    """A prediction equal to the sample's ground truth, with keypoints shifted by `shift` pixels in x and y."""
    targets = dataset.original(index).targets
    keypoints = targets.keypoints.clone()
    keypoints[..., :2] += shift
    return Poses(targets.boxes, torch.tensor([score]), targets.labels, None, keypoints)


def evaluate(dataset: CocoPoseDataset, poses: list[Poses], batch_size: int = 5, **settings) -> PoseMetric:
    metric = METRICS.build({"type": "PoseMetric", **settings}, dataset=dataset)
    for start in range(0, len(poses), batch_size):
        keys = range(start, min(start + batch_size, len(poses)))
        metric.update(poses[start : start + batch_size], dataset.collate([dataset[0, index] for index in keys]))
    metric.compute()
    return metric


def figures(root, **settings) -> CocoPoseDataset:
    return CocoPoseDataset("figures.json", "images", data_root=root, pipeline=CROP, **settings)


def test_the_annotations_as_predictions_have_an_ap_of_1_on_coco_minis_people(real_data):
    root = real_data / "coco-mini"
    files = "annotations/person_keypoints_val2017.json", "val2017"
    dataset = CocoPoseDataset(*files, data_root=root, pipeline=CROP)
    metric = evaluate(dataset, [perfect(dataset, index) for index in range(len(dataset))])
    assert metric.numbers["keypoints_AP"] == pytest.approx(1) and metric.numbers["keypoints_AR"] == pytest.approx(1)
    assert len(metric.predictions()) == len(dataset)


def test_numbers_are_those_of_pycocotools_on_the_poses_put_together(tmp_path):
    write_figures(tmp_path, images=12)
    dataset, random = figures(tmp_path), np.random.default_rng(0)
    poses = [
        perfect(dataset, i, round(float(s), 2), float(m))
        for i, s, m in zip(range(24), random.random(24), random.normal(0, 5, 24))
    ]
    metric = evaluate(dataset, poses, nms_threshold=1.0)
    together = {
        int(image): Detections(
            *(torch.cat([getattr(poses[i], name) for i in rows]) for name in ("boxes", "scores", "labels")),
            None,
            torch.cat([poses[i].keypoints for i in rows]),
        )
        for image in dataset.image_ids
        for rows in [np.flatnonzero(dataset.crop_image_ids == image)]
    }
    content = json.loads((tmp_path / "figures.json").read_text())
    truth = type("Truth", (), {"content": content, "category_ids": (5,)})()
    sigmas = [float(np.mean(metric_sigmas()))] * 3
    expected = referee(truth, together, iou_type="keypoints", sigmas=sigmas)
    names = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
    assert [metric.numbers[f"keypoints_{name}"] for name in names] == pytest.approx(expected)
    assert 0.1 < metric.numbers["keypoints_AP"] < 0.9


def metric_sigmas() -> tuple[float, ...]:
    """COCO's sigmas, from cocodataset.org/#keypoints-eval."""
    return (
        .026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089,
    )  # fmt: skip


def test_the_order_of_the_crops_does_not_matter_and_each_counts_once(tmp_path):
    write_figures(tmp_path)
    dataset = figures(tmp_path)
    poses = [perfect(dataset, i, *uneven(i)) for i in range(12)]
    plain = evaluate(dataset, poses)
    other = METRICS.build("PoseMetric", dataset=dataset)
    for index in (*range(11, -1, -1), 3, 7):
        other.update([poses[index]], dataset.collate([dataset[0, index]]))
    assert other.compute() == plain.numbers and other.predictions() == plain.predictions()


def test_images_without_crops_count_as_missed_without_a_warning(tmp_path, recwarn):
    content = write_figures(tmp_path)
    (tmp_path / "found.json").write_text(json.dumps(detected(content)[:6]))  # boxes in three of six images
    truth, dataset = figures(tmp_path), figures(tmp_path, boxes="found.json")
    metric = evaluate(dataset, [perfect(truth, index) for index in range(6)])
    assert metric.numbers["keypoints_AR"] == pytest.approx(0.5)
    assert not [w for w in recwarn if "not evaluated" in str(w.message)]
    evaluate(dataset, [perfect(truth, index) for index in range(2)])
    assert [w for w in recwarn if "2 of 6 images were not evaluated" in str(w.message)]


def test_duplicates_of_detected_boxes_are_suppressed(tmp_path):
    """Every figure is detected twice; NMS keeps one pose per figure."""
    content = write_figures(tmp_path)
    twice = detected(content) + detected(content, score=0.8)
    (tmp_path / "found.json").write_text(json.dumps(twice))
    truth, dataset = figures(tmp_path), figures(tmp_path, boxes="found.json")
    order = [int(np.flatnonzero((truth.boxes == box).all(1) & (truth.crop_image_ids == image))[0])
             for box, image in zip(dataset.boxes, dataset.crop_image_ids)]  # fmt: skip
    poses = [perfect(truth, i, float(dataset.box_scores[n]), 0.2) for n, i in enumerate(order)]
    assert len(evaluate(dataset, poses).predictions()) == 12
    assert len(evaluate(dataset, poses, nms_threshold=1.0).predictions()) == 24


def slow_nms(poses, scores, areas, sigmas, threshold) -> list[int]:
    """Greedy NMS with COCO's formula for OKS, computed with loops over pairs and keypoints."""
    kept: list[int] = []
    for i in sorted(range(len(poses)), key=lambda i: -scores[i]):
        similar = False
        for j in kept:
            total = 0.0
            for k, sigma in enumerate(sigmas):
                d2 = (poses[i][k][0] - poses[j][k][0]) ** 2 + (poses[i][k][1] - poses[j][k][1]) ** 2
                total += math.exp(-d2 / (2 * (areas[i] + areas[j]) / 2 * (2 * sigma) ** 2))
            similar |= total / len(sigmas) > threshold
        if not similar:
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_a_slow_reference(seed):
    random = np.random.default_rng(seed)
    centers = random.uniform(0, 60, (3, 17, 2))
    poses = centers[random.integers(0, 3, 30)] + random.normal(0, 2, (30, 17, 2))
    scores, areas, sigmas = random.permutation(30) / 30, random.uniform(900, 2500, 30), np.array(metric_sigmas())
    kept = oks_nms(poses, scores, areas, sigmas, 0.5)
    assert kept.tolist() == slow_nms(poses, scores, areas, sigmas, 0.5) and 3 <= len(kept) < 30
    assert oks(poses[0], poses[:1], areas[0], areas[:1], sigmas).tolist() == [1.0]


def test_what_does_not_fit_is_one_line(tmp_path, shapes):
    write_figures(tmp_path)
    dataset = figures(tmp_path)
    with pytest.raises(DataError, match="needs a dataset of crops, such as CocoPoseDataset"):
        METRICS.build("PoseMetric", dataset=object())
    metric = METRICS.build("PoseMetric", dataset=dataset)
    batch = Batch(torch.zeros(1, 3, 8, 8), torch.ones(1, 2), [ImageInfo(0, "a.png", 8, 8)])
    with pytest.raises(DataError, match=r"a\.png is not cropped; val_data\.pipeline needs a TopDownCrop"):
        metric.update([perfect(dataset, 0)], batch)


def uneven(index: int) -> tuple[float, float]:
    """The arguments `score` and `shift` of `perfect` for a sample; both vary with its index."""
    return 0.5 + index / 50, 4.0 * (index % 3)
