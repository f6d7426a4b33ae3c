"""Benchmark of COCO's box AP on generated data of val2017's size: CocoMetric and pycocotools on the same detections.

Both start from one `Detections` per image in memory and from indexed ground truth, and end with COCO's twelve metrics.

    python benchmarks/evaluation.py [--images 5000 --detections 100 --classes 80]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hotcoco
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from chordate.evaluation import CocoMetric
from chordate.structures import Batch, DatasetMeta, Detections, ImageInfo

OBJECTS = 7.3  # mean number of objects per image in val2017
BATCH = 8


def generate(images: int, detections: int, classes: int) -> tuple[dict[str, Any], list[Detections]]:
    """Generate ground truth, and predictions with shifted boxes, some wrong labels and many false positives."""
    rng = np.random.default_rng(0)
    annotations, predictions = [], []
    for image_id in range(1, images + 1):
        count = min(int(rng.poisson(OBJECTS)), detections)
        sides = np.exp(rng.uniform(np.log(10), np.log(300), (count, 2)))
        corners = rng.uniform(0, 1, (count, 2)) * ((640, 480) - sides)
        labels = rng.integers(0, classes, count)
        annotations += [
            {
                "id": len(annotations) + n,
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [*corner.tolist(), *side.tolist()],
                "area": float(side.prod() * 0.6),
                "iscrowd": int(rng.random() < 0.012),
            }
            for n, (corner, side, label) in enumerate(zip(corners, sides, labels), 1)
        ]
        truth = np.hstack([corners, corners + sides])
        hits = truth + rng.normal(0, 0.08, truth.shape) * np.hstack([sides, sides])
        low = rng.uniform(0, 400, (detections - count, 2))
        misses = np.hstack([low, low + rng.uniform(8, 200, low.shape)])
        wrong = rng.integers(0, classes, detections)
        seen = np.where(rng.random(count) < 0.85, labels, wrong[:count])
        scores = np.concatenate([rng.beta(4, 2, count), rng.beta(1, 4, detections - count)])
        order = np.argsort(-scores)
        predictions.append(
            Detections(
                torch.tensor(np.vstack([hits, misses])[order], dtype=torch.float32),
                torch.tensor(scores[order], dtype=torch.float32),
                torch.tensor(np.concatenate([seen, wrong[count:]])[order]),
            )
        )
    image_records = [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)]
    categories = [{"id": c, "name": f"class {c}"} for c in range(1, classes + 1)]
    return {"images": image_records, "annotations": annotations, "categories": categories}, predictions


class Clock:
    """Measures the seconds of named steps, and their sum."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = step()
        self.seconds[name] = time.perf_counter() - start
        return result

    def total(self) -> float:
        return sum(self.seconds.values())


def ours(content: dict[str, Any], predictions: list[Detections], clock: Clock) -> np.ndarray:
    categories = content["categories"]
    dataset = SimpleNamespace(
        meta=DatasetMeta(classes=tuple(c["name"] for c in categories)),
        category_ids=[c["id"] for c in categories],
        coco=hotcoco.COCO(content),
        image_ids=np.array([image["id"] for image in content["images"]]),
    )
    metric = CocoMetric(dataset)
    infos = [ImageInfo(image["id"], "", 480, 640) for image in content["images"]]
    blank, sizes = torch.empty(BATCH, 3, 0, 0), torch.empty(BATCH, 2, dtype=torch.int64)

    def update() -> None:
        for start in range(0, len(infos), BATCH):
            metric.update(predictions[start : start + BATCH], Batch(blank, sizes, infos[start : start + BATCH]))

    clock("collect the detections", update)
    return np.array(list(clock("match, accumulate, summarize", metric.compute).values()))


def theirs(content: dict[str, Any], predictions: list[Detections], clock: Clock) -> np.ndarray:
    truth = COCO()
    truth.dataset = content

    def convert() -> list[dict[str, Any]]:
        results = []
        for image, detections in zip(content["images"], predictions):
            boxes = detections.boxes.double()
            boxes[:, 2:] -= boxes[:, :2]
            for box, score, label in zip(boxes.tolist(), detections.scores.tolist(), detections.labels.tolist()):
                results.append({"image_id": image["id"], "category_id": label + 1, "bbox": box, "score": score})
        return results

    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = clock("collect the detections", convert)
        evaluator = COCOeval(truth, clock("load the results", lambda: truth.loadRes(results)), "bbox")
        clock("match", evaluator.evaluate)
        clock("accumulate, summarize", lambda: (evaluator.accumulate(), evaluator.summarize()))
    return evaluator.stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of alternating rounds; the fastest round of each side counts"
    )
    arguments = parser.parse_args()
    content, predictions = generate(arguments.images, arguments.detections, arguments.classes)
    best: dict[str, Clock] = {}
    numbers = {}
    for _ in range(arguments.rounds):
        for name, run in (("CocoMetric", ours), ("pycocotools", theirs)):
            clock = Clock()
            numbers[name] = run(content, predictions, clock)
            best[name] = min(best.get(name, clock), clock, key=Clock.total)
    objects, detections = len(content["annotations"]), sum(map(len, predictions))
    table = Table("", "step", title=f"{arguments.images:,} images, {objects:,} objects, {detections:,} detections")
    table.add_column("seconds", justify="right")
    for name, clock in best.items():
        for number, (step, taken) in enumerate(clock.seconds.items()):
            table.add_row("" if number else name, step, f"{taken:.2f}")
        table.add_row("", "[bold]all[/]", f"[bold]{clock.total():.2f}[/]", end_section=True)
    console = Console()
    console.print(table)
    difference = np.abs(numbers["CocoMetric"] - numbers["pycocotools"]).max()
    ratio, ap = best["pycocotools"].total() / best["CocoMetric"].total(), numbers["CocoMetric"][0]
    console.print(f"{ratio:.0f} times as fast; AP {ap:.4f}; the twelve metrics differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
