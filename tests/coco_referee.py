"""Helpers of the CocoMetric tests: ground truth, perturbed detections, and pycocotools as the reference."""

import contextlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import hotcoco
import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from chordate.evaluation import CocoMetric
from chordate.registry import METRICS
from chordate.structures import Batch, DatasetMeta, Detections, ImageInfo

Predictions = dict[int, Detections]  # detections keyed by image id


@dataclass
class Truth:
    """The dataset attributes that CocoMetric uses, from the content of an annotation file."""

    content: dict
    classes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __post_init__(self):
        self.coco = hotcoco.COCO(self.content)
        categories = sorted(self.content["categories"], key=lambda c: c["id"])
        self.image_ids = np.unique(self.coco.get_img_ids())
        self.meta = DatasetMeta(classes=self.classes or tuple(c["name"] for c in categories))
        self.category_ids = self.category_ids or tuple(c["id"] for c in categories)


def detections(boxes, scores, labels) -> Detections:
    return Detections(
        torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4)),
        torch.as_tensor(np.asarray(scores, np.float32)),
        torch.as_tensor(np.asarray(labels, np.int64)),
    )


def batch_of(image_ids, truth: Truth | None = None) -> Batch:
    """A batch with these image ids; the original image sizes come from `truth`, or else are 128 × 128."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth.content["images"]} if truth else {}
    infos = [ImageInfo(int(i), f"{i}.jpg", *sizes.get(int(i), (128, 128))) for i in image_ids]
    return Batch(torch.zeros(len(infos), 3, 1, 1), torch.ones(len(infos), 2, dtype=torch.int64), infos)


def measure(
    truth: Truth, predictions: Predictions, order=None, batch_size=3, **settings
) -> tuple[CocoMetric, dict[str, float]]:
    metric = METRICS.build({"type": "CocoMetric", **settings}, dataset=truth)
    order = list(predictions if order is None else order)
    for start in range(0, len(order), batch_size):
        ids = order[start : start + batch_size]
        metric.update([predictions[i] for i in ids], batch_of(ids, truth))
    return metric, metric.compute()


def referee(truth: Truth, predictions: Predictions, max_dets=(1, 10, 100), iou_type="bbox", sigmas=None) -> list[float]:
    """The metrics that pycocotools computes, in the order of its `stats`."""
    results = []
    for image_id, d in predictions.items():
        for i in range(len(d)):
            result = {"image_id": image_id, "category_id": truth.category_ids[d.labels[i]], "score": float(d.scores[i])}
            if iou_type == "bbox":
                x1, y1, x2, y2 = d.boxes[i].tolist()
                result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            elif iou_type == "segm":
                result["segmentation"] = rle.encode(np.asfortranarray(d.masks[i].numpy()))
            else:
                result["keypoints"] = (d.keypoints[i].double() - torch.tensor([0.5, 0.5, 0])).flatten().tolist()
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = json.loads(json.dumps(truth.content))
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results), iou_type)
        evaluation.params.catIds = list(truth.category_ids)
        if iou_type != "keypoints":
            evaluation.params.maxDets = list(max_dets)
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def random_truth(rng: np.random.Generator, images: int, classes: int) -> Truth:
    """Random boxes in COCO's three size ranges, crowds, and images without objects; category ids have gaps."""
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(int(rng.integers(0, 7)) if rng.random() < 0.8 else 0):
            side = np.exp(rng.uniform(np.log(6), np.log(200), 2)).round(2)
            corner = rng.uniform(0, 250, 2).round(2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id * 7,
                    "category_id": int(rng.integers(classes)) * 3 + 2,
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "area": float(side.prod() * rng.uniform(0.4, 1)),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return Truth(
        {
            "images": [{"id": i * 7, "width": 450, "height": 450} for i in range(1, images + 1)],
            "annotations": annotations,
            "categories": [{"id": c * 3 + 2, "name": f"class {c}"} for c in range(classes)],
        }
    )


def disturb(truth: Truth, rng: np.random.Generator) -> Predictions:
    """Detections of a mediocre model: shifted, mislabeled, duplicate, missed objects; false positives; tied scores."""
    label_of = {category: label for label, category in enumerate(truth.category_ids)}
    by_image: dict[int, list] = {image["id"]: [] for image in truth.content["images"]}
    for annotation in truth.content["annotations"]:
        if annotation["category_id"] not in label_of or rng.random() < 0.15:
            continue
        x, y, w, h = annotation["bbox"]
        for _ in range(1 + (rng.random() < 0.3)):
            shift = rng.normal(0, rng.choice([0.02, 0.1, 0.25]), 4) * [w, h, w, h]
            label = label_of[annotation["category_id"]]
            label = int(rng.integers(len(label_of))) if rng.random() < 0.1 else label
            by_image[annotation["image_id"]].append((np.array([x, y, x + w, y + h]) + shift, label))
    predictions = {}
    for image_id, rows in by_image.items():
        if rng.random() < 0.1:
            rows = []
        elif rng.random() < 0.5:  # adds random boxes, most of which are false positives
            corner = rng.uniform(0, 200, (4, 2))
            invented = np.hstack([corner, corner + rng.uniform(5, 120, (4, 2))])
            rows = rows + [(box, int(rng.integers(len(label_of)))) for box in invented]
        scores = rng.integers(1, 12, len(rows)) / 12  # only 11 different scores, so that there are ties
        predictions[image_id] = detections([r[0] for r in rows], scores, [r[1] for r in rows])
    return predictions


def disturbed_file(path: Path, seed: int) -> tuple[Truth, Predictions]:
    truth = Truth(json.loads(path.read_text()))
    return truth, disturb(truth, np.random.default_rng(seed))


def disturb_objects(truth: Truth, rng: np.random.Generator) -> Predictions:
    """Detections of a mediocre model: missed and duplicate objects; shifted boxes, masks and keypoints."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth.content["images"]}
    label_of = {category: label for label, category in enumerate(truth.category_ids)}
    predictions = {}
    for image_id, size in sizes.items():
        annotations = [a for a in truth.content["annotations"] if a["image_id"] == image_id and rng.random() > 0.15]
        annotations = [a for a in annotations for _ in range(1 + (rng.random() < 0.2))]  # some twice
        scores = rng.integers(1, 12, len(annotations)) / 12  # only 11 different scores, so that there are ties
        boxes, masks, points = (
            np.zeros((len(annotations), 4)),
            torch.zeros(len(annotations), *size, dtype=torch.bool),
            [],
        )
        for row, annotation in enumerate(annotations):
            x, y, w, h = annotation["bbox"]
            shift = rng.normal(0, rng.choice([0.01, 0.05, 0.15]), 2) * [w, h]
            boxes[row] = np.array([x, y, x + w, y + h]) + np.tile(shift, 2)
            if annotation.get("segmentation"):
                mask = np.roll(truth.coco.ann_to_mask(annotation), shift[::-1].round().astype(int), (0, 1)) > 0
                if rng.random() < 0.2:
                    mask[:, : int(x + w / 2)] = False  # keeps the part right of the box's center, if any
                masks[row] = torch.from_numpy(mask)
            if "keypoints" in annotation:
                place = np.array(annotation["keypoints"], float).reshape(-1, 3)
                place[:, :2] += 0.5 + shift / 2 + rng.normal(0, 0.02, (len(place), 2)) * [w, h]
                points.append(place)
        labels = [label_of[a["category_id"]] for a in annotations]
        predictions[image_id] = replace(detections(boxes, scores, labels), masks=masks)
        if points:
            predictions[image_id].keypoints = torch.tensor(np.array(points), dtype=torch.float32)
    return predictions
