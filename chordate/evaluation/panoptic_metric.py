"""PanopticMetric: panoptic quality of things and stuff."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import hotcoco
import numpy as np
import torch
from hotcoco import panoptic
from numpy.typing import NDArray
from PIL import Image
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from chordate.distributed import all_gather_object
from chordate.errors import ConfigError, DataError, NothingToEvaluate
from chordate.evaluation.dataset_members import check_members
from chordate.evaluation.output_names import output_names
from chordate.evaluation.panoptic_report import PanopticReport
from chordate.evaluation.ranked_images import WORST, RankedImage
from chordate.model_contracts import Metric
from chordate.registry import METRICS
from chordate.structures import Batch, DatasetMeta, PanopticMap
from chordate.structures.detection import encode_masks
from chordate.text import printable

# Suffix of metric names -> hotcoco's name of the group of classes.
GROUPS = {"": "All", "_things": "Things", "_stuff": "Stuff"}


Segment = dict[str, Any]  # category_id, iscrowd, area and segmentation (RLE), as in COCO


class EvaluatedImage(NamedTuple):
    """The segments of one image.

    Attributes:
        path: the image file.
        size: height and width of the image.
        truth, predicted: the segments of the ground truth and of the prediction.
        scores: the score of each predicted segment.
    """

    image_id: int
    path: str
    size: tuple[int, ...]
    truth: list[Segment]
    predicted: list[Segment]
    scores: list[float]

    def predicted_ids(self) -> NDArray[np.int32]:
        """The predicted segment id of each pixel, `[H, W]`: 1 … `S`, or 0 for pixels without a segment."""
        ids = np.zeros(self.size, np.int32)
        for number, segment in enumerate(self.predicted, 1):
            ids[hotcoco.mask.decode(segment["segmentation"]) > 0] = number
        return ids


class WithSegments(Protocol):
    """The members of a dataset that the metric uses.

    Attributes:
        meta: class names, and which of them are stuff.
        category_ids: the category id of each label.
    """

    meta: DatasetMeta
    category_ids: Sequence[int]

    def index_of(self, image_id: int) -> int:
        """The index of the image with the id `image_id`."""

    def id_in_file(self, image_id: int) -> int | str:
        """The id in the annotation file (an integer or a string) of the image with the id `image_id` in the dataset;
        used in saved predictions."""

    def original(self, index: int) -> Batch:
        """An untransformed image with its targets, as a batch of size 1, for the report."""

    def segments_of(self, image_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """The ground truth of an image at its original size: the segment id of each pixel `[H, W]` (1 … `S`; 0
        for pixels without a segment), the segments' labels `[S]`, and whether each segment is a crowd `[S]` bool."""


@METRICS.register_module()
class PanopticMetric(Metric):
    """Panoptic quality over all images at their original size, computed by hotcoco.

    A predicted segment matches a ground-truth segment of the same class if their IoU is above 0.5. For each class, SQ
    is the mean IoU of the matches, RQ is TP / (TP + FP / 2 + FN / 2), and PQ is SQ · RQ (Kirillov et al. 2019, Panoptic
    Segmentation, section 4). Pixels without a segment and crowds are ignored, as in panopticapi.

    Metrics, 0 … 1: `PQ`, `SQ` and `RQ`, averaged over the classes that occur in the ground truth or the predictions;
    `PQ_things`, `PQ_stuff` and so on, averaged over the thing or the stuff classes (-1 if no such class occurs).

    Args:
        dataset: the dataset that is evaluated.

    Raises:
        DataError: the dataset has no `meta`, `category_ids` or `segments_of`.
    """

    def __init__(self, dataset: WithSegments):
        check_members(dataset, "PanopticMetric", "meta", "category_ids", "segments_of")
        self.dataset = dataset
        self._pending: list[EvaluatedImage] = []
        self._last: list[EvaluatedImage] = []
        self._results: dict[str, Any] = {}

    def update(self, predictions: Sequence[PanopticMap], batch: Batch) -> None:
        """Collect the segments of a batch.

        Raises:
            DataError: the predictions are not PanopticMaps, or differ in size from the ground truth.
        """
        for prediction, info in zip(predictions, batch.infos, strict=True):
            if not isinstance(prediction, PanopticMap):
                raise DataError(
                    f"PanopticMetric evaluates PanopticMaps; the model predicts {type(prediction).__name__}"
                )
            numbers, labels, crowd = self.dataset.segments_of(info.image_id)
            if numbers.shape != prediction.ids.shape:
                raise DataError(
                    f"{info.path}: the prediction has {list(prediction.ids.shape)} pixels, the ground truth "
                    f"{list(numbers.shape)}"
                )
            truth = self._segments(numbers, labels.tolist(), crowd.tolist())
            predicted = self._segments(prediction.ids.cpu(), prediction.labels.tolist(), [False] * len(prediction))
            scores = prediction.scores.tolist()
            self._pending.append(
                EvaluatedImage(info.image_id, info.path, tuple(numbers.shape), truth, predicted, scores)
            )

    def _segments(self, numbers: Tensor, labels: Sequence[int], crowd: Sequence[bool]) -> list[Segment]:
        """COCO annotations, without `id`, of the segments 1 … `S`; `numbers` `[H, W]` are the pixels' segment ids."""
        masks = numbers == torch.arange(1, len(labels) + 1)[:, None, None]
        areas = masks.sum((1, 2)).tolist()
        return [
            {
                "category_id": self.dataset.category_ids[label],
                "iscrowd": int(is_crowd),
                "area": area,
                "segmentation": code,
            }
            for label, is_crowd, area, code in zip(labels, crowd, areas, encode_masks(masks), strict=True)
        ]

    def compute(self) -> dict[str, float]:
        """Compute the metrics over all ranks (equal on every rank), and reset the collected segments.

        Raises:
            NothingToEvaluate: no image with a ground-truth segment was evaluated.
        """
        collected = {one.image_id: one for part in all_gather_object(self._pending) for one in part}
        self._pending, self._last = [], [collected[image_id] for image_id in sorted(collected)]
        if not any(one.truth for one in self._last):
            raise NothingToEvaluate("PanopticMetric: no image with a ground-truth segment was evaluated")
        self._results = self._evaluate(self._last)
        self.numbers = {
            f"{name.upper()}{ending}": float(self._results[group][name]) if self._results[group]["n"] else -1.0
            for ending, group in GROUPS.items()
            for name in ("pq", "sq", "rq")
        }
        return dict(self.numbers)

    def _evaluate(self, images: Sequence[EvaluatedImage]) -> dict[str, Any]:
        """hotcoco's results for `images`."""
        evaluation = panoptic.PanopticEval(self._coco(images, "truth"), self._coco(images, "predicted"))
        evaluation.evaluate()
        results: dict[str, Any] = evaluation.results()
        return results

    def _coco(self, images: Sequence[EvaluatedImage], side: str) -> dict[str, Any]:
        """The segments of the images as a COCO dataset; `side` is "truth" or "predicted"."""
        meta = self.dataset.meta
        pairs = zip(meta.classes, self.dataset.category_ids)
        categories = [{"id": number, "name": name, "isthing": int(name not in meta.stuff)} for name, number in pairs]
        records = [{"id": one.image_id, "height": one.size[0], "width": one.size[1]} for one in images]
        segments = [{"image_id": one.image_id, **segment} for one in images for segment in getattr(one, side)]
        annotations = [{"id": number, **segment} for number, segment in enumerate(segments, 1)]
        return {"images": records, "categories": categories, "annotations": annotations}

    def per_class(self) -> dict[str, dict[str, float]]:
        """Metrics of each class, by class name: `PQ`, `SQ` and `RQ` (-1 if the class is in neither the ground truth nor
        the predictions), and the numbers of segments `TP` (matched), `FP` (wrong) and `FN` (missed)."""
        pairs = zip(self.dataset.meta.classes, self.dataset.category_ids)
        names = ("pq", "sq", "rq", "tp", "fp", "fn")
        return {name: {key.upper(): self._results["per_class"][number][key] for key in names} for name, number in pairs}

    def report(self) -> PanopticReport:
        """Report with the metrics per class, and the images with the lowest PQ (each image evaluated alone)."""
        scores = []
        for number, one in enumerate(self._last):
            overall = self._evaluate([one])["All"]
            if overall["n"]:
                scores.append((float(overall["pq"]), number))
        worst = [self._ranked(score, self._last[number]) for score, number in sorted(scores)[:WORST]]
        return PanopticReport(self.numbers, self.per_class(), worst, self.dataset.meta)

    def _ranked(self, score: float, one: EvaluatedImage) -> RankedImage:
        """An image of the report, with its prediction at the original size."""
        label_of = {number: label for label, number in enumerate(self.dataset.category_ids)}
        labels = torch.tensor([label_of[segment["category_id"]] for segment in one.predicted], dtype=torch.int64)
        stuff = [name in self.dataset.meta.stuff for name in self.dataset.meta.classes]
        areas = torch.tensor([segment["area"] for segment in one.predicted], dtype=torch.int64)
        prediction = PanopticMap(
            torch.from_numpy(one.predicted_ids()), labels, ~torch.tensor(stuff)[labels], torch.tensor(one.scores), areas
        )
        return RankedImage(score, self.dataset.original(self.dataset.index_of(one.image_id)), prediction)

    def table(self) -> Table:
        """Table with one row per class, and the means over stuff, things and all classes."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("class")
        for name in ("PQ / %", "SQ / %", "RQ / %", "matched", "wrong", "missed"):
            table.add_column(name, justify="right")
        for name, row in self.per_class().items():
            counts = [f"{row[key]:,}" for key in ("TP", "FP", "FN")]
            table.add_row(Text(printable(name)), *(_percent(row[key]) for key in ("PQ", "SQ", "RQ")), *counts)
        table.add_section()
        for ending in reversed(GROUPS):
            values = [_percent(self.numbers[f"{name}{ending}"]) for name in ("PQ", "SQ", "RQ")]
            table.add_row(f"mean of {ending.strip('_') or 'all'}", *values, "", "", "")
        return table

    def save_predictions(self, path: str | Path) -> None:
        """Write the last predictions in COCO's panoptic format: the JSON file `path`, and one PNG of segment ids per
        image, in a folder named like `path` without the suffix. The PNGs keep the subfolders of the images.

        Raises:
            ConfigError: `path` has no suffix.
        """
        path = Path(path)
        folder = path.with_suffix("")
        if folder == path:
            raise ConfigError(
                f"--predictions {path} has no suffix; name a .json file (the PNGs go to the folder without the suffix)"
            )
        annotations = []
        for one, name in zip(self._last, output_names([one.path for one in self._last])):
            file = folder / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            ids = one.predicted_ids()
            colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(colors).save(file)
            listed = [
                {"id": number, "category_id": segment["category_id"], "area": segment["area"]}
                for number, segment in enumerate(one.predicted, 1)
            ]
            number = self.dataset.id_in_file(one.image_id)
            annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": listed})
        path.write_text(json.dumps({"annotations": annotations}))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if value >= 0 else "–"
