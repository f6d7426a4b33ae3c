"""PoseMetric: COCO's keypoint AP for top-down pose estimation, where each pose is predicted from one crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chordate.arguments import Fraction, PositiveFloat
from chordate.distributed import all_gather_object
from chordate.errors import DataError
from chordate.evaluation.coco_backends import BackendName
from chordate.evaluation.coco_metric import CocoMetric
from chordate.evaluation.ground_truth import CocoAnnotated
from chordate.evaluation.oks_nms import oks_nms
from chordate.evaluation.packed_detections import PackedDetections
from chordate.registry import METRICS
from chordate.structures import Batch, CropInfo, Detections


class CocoCrops(CocoAnnotated, Protocol):
    """The members of a dataset of crops that the metric uses.

    Attributes:
        crop_image_ids: `[crops]` int64, image id of each crop.
    """

    crop_image_ids: NDArray[np.int64]


@METRICS.register_module()
class PoseMetric(CocoMetric):
    """COCO's keypoint AP and AR. The poses from all crops of an image are merged, and duplicates removed by OKS NMS.

    Images without crops are evaluated too: their objects count as missed. The metrics are those of `CocoMetric` for
    keypoints.

    Args:
        dataset: the dataset that is evaluated.
        nms_threshold: OKS threshold of NMS, which drops the pose with the lower score if the OKS of two poses exceeds
            it. 0.9 in the code of Xiao et al. 2018; 1 keeps all poses.
        engine, keypoint_sigmas: see `CocoMetric`.

    Raises:
        ConfigError: the number of sigmas differs from the number of keypoints.
        DataError: the dataset has no crops or no keypoints.
    """

    def __init__(
        self,
        dataset: CocoCrops,
        nms_threshold: Fraction = 0.9,
        engine: BackendName = "hotcoco",
        keypoint_sigmas: Sequence[PositiveFloat] | None = None,
    ):
        if not isinstance(getattr(dataset, "crop_image_ids", None), np.ndarray):
            raise DataError(
                f"PoseMetric needs a dataset of crops, such as CocoPoseDataset; {type(dataset).__name__} has no "
                f"crop_image_ids"
            )
        super().__init__(dataset, ["keypoints"], engine, keypoint_sigmas=keypoint_sigmas)
        self.crop_image_ids, self.nms_threshold = dataset.crop_image_ids, nms_threshold
        self._areas: dict[int, float] = {}

    def update(self, predictions: Sequence[Detections], batch: Batch) -> None:
        """Collect the poses of a batch of crops.

        Raises:
            DataError: as for `CocoMetric.update`, or the images of the batch are not crops.
        """
        for info in batch.infos:
            if not isinstance(info, CropInfo):
                raise DataError(f"PoseMetric: {info.path} is not cropped; val_data.pipeline needs a TopDownCrop")
            self._areas[info.image_id] = info.area
        super().update(predictions, batch)

    def gather(self, batches: Sequence[PackedDetections]) -> PackedDetections:
        """Merge the poses of all crops of all ranks by image, without duplicates."""
        crops = super().gather(batches)
        areas: dict[int, float] = {}
        for part in all_gather_object(self._areas):
            areas |= part
        self._areas = {}
        number = np.repeat(crops.image_ids, crops.counts)  # the crop index of each pose
        images = self.crop_image_ids[number]
        sizes = np.array([areas[crop] for crop in number.tolist()])
        kept = self._without_duplicates(crops, images, sizes)
        kept = kept[np.lexsort((-crops.scores[kept], images[kept]))]
        # An image without crops gets an entry without poses. An image whose crops were not predicted gets no entry, so
        # CocoMetric warns that it was not evaluated.
        seen = np.isin(self.dataset.image_ids, self.crop_image_ids[crops.image_ids])
        evaluated = self.dataset.image_ids[seen | ~np.isin(self.dataset.image_ids, self.crop_image_ids)]
        ends = [np.searchsorted(images[kept], evaluated, side) for side in ("left", "right")]
        keypoints = None if crops.keypoints is None else crops.keypoints[kept]
        return PackedDetections(
            evaluated, ends[1] - ends[0], np.zeros((len(evaluated), 2), np.int64),
            crops.boxes[kept], crops.scores[kept], crops.labels[kept], None, keypoints,
        )  # fmt: skip

    def _without_duplicates(
        self, crops: PackedDetections, images: NDArray[np.int64], areas: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """The indices of the poses that NMS keeps; it runs per image and class."""
        if crops.keypoints is None:
            return np.arange(len(crops.scores))
        sigmas, kept = np.array(self._sigmas()), []
        order = np.lexsort((crops.labels, images))
        keys = np.stack([images[order], crops.labels[order]], 1)
        starts = np.flatnonzero((keys[1:] != keys[:-1]).any(1)) + 1
        for rows in np.split(order, starts):
            points = crops.keypoints[rows, :, :2]
            kept.append(rows[oks_nms(points, crops.scores[rows], areas[rows], sigmas, self.nms_threshold)])
        return np.concatenate(kept)
