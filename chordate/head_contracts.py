"""The contracts (protocols) of heads: the methods and attributes that the package's models use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from chordate.structures import Detections, InstanceTargets, Proposals, SampledRoIs


@dataclass(frozen=True)
class ClassRows:
    """Layout of a layer whose outputs belong to classes: `[anchors, classes + background, values]`, flattened.

    When a checkpoint with different classes is loaded, the weights of shared classes and of the background are copied.

    Attributes:
        values: number of outputs per class, for example 4 for boxes.
        anchors: number of anchors per cell; each has outputs for all classes.
        background: 1 if outputs for the background follow the outputs for the classes, else 0.
        names: source of the class names: "classes", "things" or "keypoints" of the DatasetMeta, "things and stuff"
            (one class for all things, followed by the stuff classes), or a key of `DatasetMeta.extra`.
    """

    values: int = 1
    anchors: int = 1
    background: int = 0
    names: str = "classes"


@runtime_checkable
class HasClassRows(Protocol):
    """A module, usually a head, with outputs per class.

    `__init__` sets `class_rows`, a mapping from the name of a layer or parameter to its layout:
    `self.class_rows = {"cls_score": ClassRows(background=1), "bbox_pred": ClassRows(values=4)}`. Without `class_rows`,
    tensors whose shapes differ from the checkpoint keep their initial values.
    """

    class_rows: Mapping[str, ClassRows]


@runtime_checkable
class HasFinalLayers(Protocol):
    """A head that corresponds to the last layers of other libraries' networks, so that it can load their weights.

    Attributes:
        final_layers: maps "linear" to the name of the head's last linear layer, and "norm" to the name of the
            normalization layer before it.
    """

    final_layers: Mapping[Literal["linear", "norm"], str]


class ProposalHead(Protocol):
    """Proposes boxes that may contain an object, for example an RPN.

    The model passes two kinds of arguments to the constructor: `in_features` (FeatureSpecs of the available feature
    maps), and the values of `DatasetMeta.facts()`, such as `num_classes`, that the constructor has parameters for.
    """

    def __call__(self, features: dict[str, Tensor]) -> Any:
        """Compute the outputs (of any type) for `loss` and `predict` from feature maps `[N, C, H, W]` keyed by name."""

    def loss(self, outputs: Any, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses keyed by name; `sizes` `[N, 2]` are heights and widths of the images without padding."""

    def predict(self, outputs: Any, sizes: Tensor, training: bool = False) -> Proposals:
        """Predict proposals, clipped to the images, without a gradient.

        Args:
            outputs: the outputs of `__call__`.
            sizes: `[N, 2]` int64, heights and widths of the images without padding.
            training: whether the proposals are for training, which may use more proposals.
        """


class RoIHead(Protocol):
    """Classifies and refines proposals: the box head of a two-stage detector.

    Its constructor receives the same arguments as the constructor of a ProposalHead.

    Attributes:
        nms_threshold: IoU threshold of the NMS within each class; also used to merge boxes in test-time augmentation.
        detections_per_image: maximum number of detections per image; the highest-scoring detections are kept.
    """

    nms_threshold: float
    detections_per_image: int

    def sample(self, proposals: Proposals, targets: InstanceTargets) -> SampledRoIs:
        """Sample the regions that this head and the InstanceHeads train on, without a gradient."""

    def loss(self, features: dict[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses keyed by name."""

    def predict(self, features: dict[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Detections of each image, best first, boxes in pixels of the padded batch."""


class RegionHead(RoIHead, Protocol):
    """A RoIHead whose trunk may be shared with a mask head (the C4 layout, `TwoStageDetector(trunk="c5")`).

    The constructor has a parameter `trunk`, a module that computes feature maps from pooled regions `[R, C, S, S]`;
    `loss` has a parameter `roi_features`, the output of the trunk.
    """

    def roi_features(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """The trunk's output `[R, D, S', S']` for boxes `[R, 4]`, in pixels of the padded batch; `image` `[R]` is the
        index of each box's image."""

    def loss(
        self,
        features: dict[str, Tensor],
        rois: SampledRoIs,
        targets: InstanceTargets,
        roi_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Scalar losses keyed by name; `roi_features` has one row per valid RoI, in the order of
        `PaddedIndex(rois.valid)`."""


class RoITrunk(Protocol):
    """The layers of a RoIHead between pooling and predictors.

    The head passes `in_channels` (C) and `resolution` (S) of the pooled regions to the constructor.

    Attributes:
        out_channels: number of output channels D.
    """

    out_channels: int

    def __call__(self, x: Tensor, /) -> Tensor:
        """Compute vectors `[R, D]` or feature maps `[R, D, S', S']` from pooled regions `[R, C, S, S]`."""


class InstanceHead(Protocol):
    """Predicts attributes (masks, keypoints) of each detection of the RoIHead.

    Its constructor receives the same arguments as the constructor of a ProposalHead.

    If the trunk of a RegionHead is shared, the constructor of a mask head also receives `roi_channels`, and its `loss`
    and `predict` receive the keyword `roi_features`: in `loss`, one row per valid RoI in the order of
    `PaddedIndex(rois.valid)`; in `predict`, one row per detection.
    """

    def loss(self, features: dict[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses keyed by name, computed on the regions that the RoIHead sampled."""

    def predict(self, features: dict[str, Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Predict a mask or keypoint heatmaps for each detection, on an S × S grid over its box.

        Args:
            features: feature maps `[N, C, H, W]` keyed by name.
            detections: one per image, boxes in pixels of the padded batch.

        Returns:
            One tensor per image of `D` detections: a mask head returns probabilities `[D, S, S]` for the class of each
            detection; a keypoint head returns logits `[D, K, S, S]`, one heatmap per keypoint.
        """


class DenseHead(Protocol):
    """Detects objects at every cell of the feature maps, in one stage.

    Its constructor receives the same arguments as the constructor of a ProposalHead.

    Attributes:
        nms_threshold, detections_per_image: as in RoIHead.
    """

    nms_threshold: float
    detections_per_image: int

    def __call__(self, features: dict[str, Tensor]) -> Any:
        """Compute the outputs (of any type) for `loss` and `predict` from feature maps `[N, C, H, W]` keyed by name."""

    def loss(self, outputs: Any, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses keyed by name; `sizes` `[N, 2]` are heights and widths of the images without padding."""

    def predict(self, outputs: Any, sizes: Tensor) -> list[Detections]:
        """Detections of each image, best first, boxes in pixels of the padded batch and clipped to the image."""


@runtime_checkable
class PredictsPadded(Protocol):
    """A RoIHead, DenseHead or InstanceHead whose predictions can be exported: no shape depends on values.

    `predict_padded` has the arguments and results of `predict`, except that detections are in fixed slots: a RoIHead
    or DenseHead returns PaddedDetections instead of a list; an InstanceHead receives them, and returns one tensor with
    the leading dimensions `[N, D]`.
    """

    def predict_padded(self, features: Any, proposals: Any, /, **shared: Any) -> Any:
        """Predict like `predict`, with tensors of fixed shapes."""


class ImageHead(Protocol):
    """Classifies images. Its constructor receives the same arguments as the constructor of a ProposalHead."""

    def __call__(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute logits `[N, num_classes]`, float32, from feature maps `[N, C, H, W]` (of clips
        `[N, C, T, H, W]`), keyed by name."""

    def pool(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute the input `[N, C]` of the last layer, which is the feature vector that `chordate features` writes."""

    def loss(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Scalar losses keyed by name.

        Args:
            logits: `[N, num_classes]`.
            truth: labels `[N]` int64, or soft targets `[N, num_classes]`, each row summing to 1 (MixUp, CutMix).
        """

    def probabilities(self, logits: Tensor) -> Tensor:
        """Convert logits to class probabilities `[N, num_classes]`."""
