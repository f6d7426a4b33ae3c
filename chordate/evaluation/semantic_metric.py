"""SemanticMetric: intersection over union and accuracy of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from hotcoco import semantic
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from chordate.arguments import OpenFraction
from chordate.distributed import all_gather_object
from chordate.errors import ConfigError, DataError, NothingToEvaluate
from chordate.evaluation.boundary_iou import BoundaryIoU
from chordate.evaluation.dataset_members import check_members
from chordate.evaluation.output_names import output_names
from chordate.evaluation.ranked_images import WORST, RankedImage
from chordate.evaluation.semantic_report import SemanticReport
from chordate.model_contracts import Metric
from chordate.registry import METRICS
from chordate.structures import Batch, DatasetMeta
from chordate.structures.semantic import IGNORED, SemanticMap
from chordate.text import printable


class WithLabels(Protocol):
    """The members of a dataset that the metric uses."""

    meta: DatasetMeta
    label_ids: Sequence[int]  # the pixel value of each class in label images

    def labels_of(self, index: int) -> Tensor:
        """The labels `[H, W]` of an image at its original size; ignored pixels have the label `IGNORED`."""

    def original(self, index: int) -> Batch:
        """An untransformed image with its targets, as a batch of size 1, for the report."""


@METRICS.register_module()
class SemanticMetric(Metric):
    """Mean intersection over union over all images at their original size, computed by hotcoco.

    Metrics, 0 … 1 (Long et al. 2015, section 5): `mIoU`, the IoU averaged over the classes; `fwIoU`, the IoU averaged
    with the classes' numbers of pixels as weights; `mAcc`, the accuracy averaged over the classes; `aAcc`, the accuracy
    over all pixels; and with `boundary`, `boundary_mIoU`. Classes without pixels in the ground truth are left out of
    the means, as in Detectron2; pixels predicted as such a class are errors of their true class. Ignored pixels are
    left out.

    Args:
        dataset: the dataset that is evaluated.
        boundary: distance of the boundary IoU as a fraction of the image diagonal, 0.02 in the paper (see
            `BoundaryIoU`); None for no boundary IoU.

    Raises:
        DataError: the dataset has no `meta` or no `labels_of`.
    """

    def __init__(self, dataset: WithLabels, boundary: OpenFraction | None = None):
        check_members(dataset, "SemanticMetric", "meta", "labels_of")
        self.dataset, self.boundary = dataset, boundary
        self.classes = len(dataset.meta.classes)
        self._keep = False
        self._start()
        self._last: Any = None

    def _start(self) -> None:
        """Reset the counters."""
        self._pending, self._boundary = self._evaluator(), self._boundary_counter()
        self._worst: list[tuple[float, int, SemanticMap]] = []  # mean IoU, image id, prediction
        self._images: dict[str, bytes] = {}  # path of each image -> its prediction as PNG
        self._counted: set[int] = set()  # image ids

    def _evaluator(self) -> semantic.SemanticEval:
        return semantic.SemanticEval(list(map(str, range(self.classes))), ignore_index=self.classes)

    def _boundary_counter(self) -> BoundaryIoU | None:
        return None if self.boundary is None else BoundaryIoU(self.classes, self.boundary)

    def update(self, predictions: Sequence[SemanticMap], batch: Batch) -> None:
        """Count the pixels of a batch; an image that occurs again is counted once.

        Raises:
            DataError: the predictions are not SemanticMaps, differ in size from the ground truth, or have labels that
                are not classes of the dataset; or `labels_of` of the dataset does not return a tensor.
        """
        for prediction, info in zip(predictions, batch.infos, strict=True):
            if not isinstance(prediction, SemanticMap):
                raise DataError(
                    f"SemanticMetric evaluates SemanticMaps; the model predicts {type(prediction).__name__}"
                )
            if info.image_id in self._counted:  # an image occurs again if it replaces a broken one
                continue
            self._counted.add(info.image_id)
            truth = self.dataset.labels_of(info.image_id)
            if not isinstance(truth, Tensor):
                name = f"{type(self.dataset).__name__}.labels_of"
                raise DataError(f"{name} must return a tensor [H, W], got {type(truth).__name__}")
            labels = prediction.labels.cpu().numpy()
            if labels.shape != tuple(truth.shape):
                raise DataError(
                    f"{info.path}: the prediction has {list(labels.shape)} pixels, the ground truth {list(truth.shape)}"
                )
            if labels.min() < 0 or labels.max() >= self.classes:
                raise DataError(
                    f"{info.path}: predicted labels must be 0 … {self.classes - 1}, one for each class of the dataset; "
                    f"they are {labels.min()} … {labels.max()}"
                )
            if self._keep:
                self._images[info.path] = encode_labels(labels, self.dataset.label_ids)
            pixels = truth.where(truth != IGNORED, self.classes).numpy().astype(np.uint16)
            image = self._evaluator()
            image.update(pixels, labels.astype(np.uint16))
            self._pending.merge(image)
            if self._boundary is not None:
                self._boundary.update(pixels, labels)
            if image.results()["n_pixels"]:
                entry = mean_iou(image), info.image_id, prediction.to("cpu", non_blocking=False)
                self._worst = sorted([*self._worst, entry], key=lambda entry: entry[:2])[:WORST]

    def compute(self) -> dict[str, float]:
        """Compute the metrics over all ranks (equal on every rank), and reset the counters.

        Raises:
            NothingToEvaluate: no labeled pixel was evaluated.
        """
        total, boundary = self._evaluator(), self._boundary_counter()
        for part, edges in all_gather_object((self._pending, self._boundary)):
            total.merge(part)
            if boundary is not None:
                boundary.merge(edges)
        self._ranked = self._gather_worst()
        self._saved = {path: png for part in all_gather_object(self._images) for path, png in part.items()}
        self._last, self._last_boundary = total, boundary
        self._start()
        results = total.results()
        if not results["n_pixels"]:
            raise NothingToEvaluate("SemanticMetric: no labeled pixel was evaluated")
        self.numbers = {"mIoU": mean_iou(total), **{name: float(results[name]) for name in ("fwIoU", "mAcc", "aAcc")}}
        if boundary is not None:
            scores = [row["boundary_IoU"] for row in self.per_class().values() if row["pixels"]]
            self.numbers["boundary_mIoU"] = float(np.mean(scores))
        return dict(self.numbers)

    def _gather_worst(self) -> list[tuple[float, int, SemanticMap]]:
        """The images with the lowest IoU over all ranks, in ascending order of IoU. Gathers only their predictions."""
        ranking = sorted(chain(*all_gather_object([entry[:2] for entry in self._worst])))[:WORST]
        chosen = {number for _, number in ranking}
        return sorted(
            chain(*all_gather_object([entry for entry in self._worst if entry[1] in chosen])),
            key=lambda entry: entry[:2],
        )

    def per_class(self) -> dict[str, dict[str, float]]:
        """Metrics of each class, by class name: `IoU`, `Acc` and, if `boundary` is set, `boundary_IoU` (each -1 for a
        class without pixels in the ground truth), and `pixels`, the number of pixels in the ground truth."""
        rows = dict(zip(self.dataset.meta.classes, self._last.results()["per_class"], strict=True))
        table = {name: {"IoU": row["IoU"], "Acc": row["Acc"], "pixels": row["gt_area"]} for name, row in rows.items()}
        if self._last_boundary is not None:
            for row, score in zip(table.values(), self._last_boundary.per_class().tolist()):
                row["boundary_IoU"] = score
        absent = {name: dict.fromkeys(row, -1.0) | {"pixels": 0.0} for name, row in table.items() if not row["pixels"]}
        return table | absent

    def keep_predictions(self, path: str | Path) -> None:
        if Path(path).suffix or Path(path).is_file():
            raise ConfigError(f"--predictions {path}: SemanticMetric writes one PNG per image; name a folder")
        self._keep = True

    def save_predictions(self, path: str | Path) -> None:
        """Write the predictions of the last `compute` to the folder `path`, if `keep_predictions` was called before.

        There is one PNG per image, with the pixel values of the dataset's label images (as benchmark servers expect).
        The PNGs keep the subfolders of the images, see `output_names`.

        Raises:
            ConfigError: `keep_predictions` was not called before the evaluation.
        """
        if not self._saved:
            raise ConfigError("SemanticMetric: call keep_predictions before the evaluation to save its predictions")
        for name, png in zip(output_names(list(self._saved)), self._saved.values()):
            file = Path(path) / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png)

    def report(self) -> SemanticReport:
        """Report with the scores per class, the confusion matrix, and the images with the lowest IoU."""
        worst = [RankedImage(iou, self.dataset.original(number), labels) for iou, number, labels in self._ranked]
        return SemanticReport(self.numbers, self.per_class(), self._last.confusion(), worst, self.dataset.meta)

    def table(self) -> Table:
        """Table with one row per class and a row of means. The caption names the classes that are left out."""
        per_class = self.per_class()
        pixels = sum(row["pixels"] for row in per_class.values())
        total = f"{pixels / 1e6:,.1f} M pixels" if pixels >= 1e6 else f"{pixels:,.0f} pixels"
        absent = [name for name, row in per_class.items() if not row["pixels"]]
        table = Table(box=box.SIMPLE_HEAD, show_footer=True, caption_justify="left")
        columns = {"IoU": ("IoU / %", "mIoU"), "Acc": ("accuracy / %", "mAcc")}
        if self._last_boundary is not None:
            columns["boundary_IoU"] = ("boundary IoU / %", "boundary_mIoU")
        table.add_column("class", footer=f"mean of {len(per_class) - len(absent)}" if absent else "mean")
        for title, mean in columns.values():
            table.add_column(title, justify="right", footer=f"{100 * self.numbers[mean]:.2f}")
        table.add_column("of the pixels / %", justify="right", footer=total)
        for name, row in per_class.items():
            scores = [f"{100 * row[key]:.2f}" if row[key] >= 0 else "–" for key in columns]
            table.add_row(Text(printable(name)), *scores, f"{100 * row['pixels'] / pixels:.2f}")
        if absent:
            table.caption = Text(
                f"{len(absent)} of {len(per_class)} classes are not in the ground truth: "
                + ", ".join(map(printable, absent))
            )
        return table


def encode_labels(labels: NDArray[np.int16], ids: Sequence[int]) -> bytes:
    """Encode labels as a PNG of the classes' pixel values, with 16 bits per pixel if a value exceeds 255.

    Args:
        labels: `[H, W]`.
        ids: the pixel value of each class.
    """
    pixels = np.array(ids, np.uint16)[labels]
    return cv2.imencode(".png", pixels if max(ids) > 255 else pixels.astype(np.uint8))[1].tobytes()


def mean_iou(evaluator: semantic.SemanticEval) -> float:
    """The mean IoU of the classes that have pixels in the ground truth."""
    return float(np.mean([row["IoU"] for row in evaluator.results()["per_class"] if row["gt_area"]] or [0.0]))
