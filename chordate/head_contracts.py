"""The contracts of heads, which the package's models build and call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from chordate.structures import Detections, InstanceTargets, Proposals, SampledRoIs


@dataclass(frozen=True)
class ClassRows:
    """Layout of a layer's outputs per class: `[anchors, classes + background, values]`, flattened.

    Loading a checkpoint with other classes keeps the outputs of the classes that both have, and the background's.

    Attributes:
        values: outputs per class, 4 for boxes.
        anchors: anchors per cell, each with outputs for all classes.
        background: 1 if outputs for the background follow those of the classes.
        names: source of the class names: "classes" or "keypoints" of the DatasetMeta, or a list in its `extra`.
    """

    values: int = 1
    anchors: int = 1
    background: int = 0
    names: str = "classes"


@runtime_checkable
class HasClassRows(Protocol):
    """A module, usually a head, with outputs per class.

    `class_rows` names its layers (or parameters) with such outputs, set in `__init__`:
    `self.class_rows = {"cls_score": ClassRows(background=1), "bbox_pred": ClassRows(values=4)}`. Without it, tensors
    whose shapes differ from the checkpoint's stay as initialized.
    """

    class_rows: Mapping[str, ClassRows]


@runtime_checkable
class HasFinalLayers(Protocol):
    """A head that corresponds to the last layers of other libraries' networks, so that their weights load into it.

    Attributes:
        final_layers: the head's names of its last layers, by role: "linear", and "norm" for the norm before it.
    """

    final_layers: Mapping[Literal["linear", "norm"], str]


class ProposalHead(Protocol):
    """Proposes boxes that may contain an object, such as an RPN.

    The model builds it with `in_features` (FeatureSpecs of the available maps), and with the facts of the DatasetMeta
    that its signature names.
    """

    def __call__(self, features: dict[str, Tensor]) -> Any:
        """Outputs of any form from maps `[N, C, H, W]` by name; the other methods receive them."""

    def loss(self, outputs: Any, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses by name; `sizes` are heights and widths `[N, 2]` of the images without padding."""

    def predict(self, outputs: Any, sizes: Tensor, training: bool = False) -> Proposals:
        """Proposals without a gradient, clipped to the images.

        Args:
            outputs: from the call.
            sizes: `[N, 2]` int64, heights and widths of the images without padding.
            training: whether the proposals are for training, where there may be more of them.
        """


class RoIHead(Protocol):
    """Classifies and refines proposals: the box head of a two-stage detector. Built like a ProposalHead.

    Attributes:
        nms_threshold: IoU, within a class; test-time augmentation merges boxes with it.
        detections_per_image: at most this many are kept, the best.
    """

    nms_threshold: float
    detections_per_image: int

    def sample(self, proposals: Proposals, targets: InstanceTargets) -> SampledRoIs:
        """Sample the regions that this head and the InstanceHeads train on, without a gradient."""

    def loss(self, features: dict[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses by name."""

    def predict(self, features: dict[str, Tensor], proposals: Proposals) -> list[Detections]:
        """Detections of each image, best first, boxes in pixels of the padded batch."""


class RegionHead(RoIHead, Protocol):
    """A RoIHead whose trunk may be shared with a mask head (the C4 layout, `TwoStageDetector(trunk="c5")`).

    Its constructor takes `trunk`, a module from pooled regions `[R, C, S, S]` to maps; its `loss` also takes
    `roi_features`, the trunk's output.
    """

    def roi_features(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """The trunk's output `[R, C, S, S]` for boxes `[R, 4]`, in pixels of the padded batch, of images `[R]`."""

    def loss(
        self,
        features: dict[str, Tensor],
        rois: SampledRoIs,
        targets: InstanceTargets,
        roi_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As in RoIHead; `roi_features` belong to the rows of `PaddedIndex(rois.valid)`."""


class RoITrunk(Protocol):
    """The layers of a RoIHead between pooling and predictors.

    Built by the head with `in_channels` (C) and `resolution` (S) of the pooled regions.

    Attributes:
        out_channels: D.
    """

    out_channels: int

    def __call__(self, x: Tensor, /) -> Tensor:
        """Vectors `[R, D]`, or maps `[R, D, S', S']`, from pooled regions `[R, C, S, S]`."""


class InstanceHead(Protocol):
    """Predicts attributes (masks, keypoints) of each detection of the RoIHead. Built like a ProposalHead.

    If the trunk of a RegionHead is shared, a mask head is also built with `roi_channels`, and its `loss` and `predict`
    receive the keyword `roi_features`: in `loss` of the rows of `PaddedIndex(rois.valid)`, in `predict` of all
    detections.
    """

    def loss(self, features: dict[str, Tensor], rois: SampledRoIs, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses by name, from the regions that the RoIHead sampled."""

    def predict(self, features: dict[str, Tensor], detections: Sequence[Detections]) -> list[Tensor]:
        """Predict a mask or heatmaps `[D, …, S, S]` for each of an image's `D` detections, in the frame of its box.

        Args:
            features: maps `[N, C, H, W]` by name.
            detections: one per image, boxes in pixels of the padded batch.

        Returns:
            One tensor per image: a mask head returns probabilities `[D, S, S]` for each detection's class, a keypoint
            head returns heatmaps `[D, K, S, S]` of logits.
        """


class DenseHead(Protocol):
    """Detects objects at every cell of the maps, in one stage. Built like a ProposalHead.

    Attributes:
        nms_threshold, detections_per_image: as in RoIHead.
    """

    nms_threshold: float
    detections_per_image: int

    def __call__(self, features: dict[str, Tensor]) -> Any:
        """Outputs of any form from maps `[N, C, H, W]` by name; the other methods receive them."""

    def loss(self, outputs: Any, sizes: Tensor, targets: InstanceTargets) -> dict[str, Tensor]:
        """Scalar losses by name; `sizes` are heights and widths `[N, 2]` of the images without padding."""

    def predict(self, outputs: Any, sizes: Tensor) -> list[Detections]:
        """Detections of each image, best first, boxes in pixels of the padded batch and clipped to the image."""


class ImageHead(Protocol):
    """Classifies whole images. Built like a ProposalHead."""

    def __call__(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits `[N, num_classes]`, float32, from maps `[N, C, ..., H, W]` by name."""

    def pool(self, features: Mapping[str, Tensor]) -> Tensor:
        """The inputs `[N, C]` of the last layer, which `chordate features` writes."""

    def loss(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Scalar losses by name.

        Args:
            logits: `[N, num_classes]`.
            truth: labels `[N]` int64, or weights `[N, num_classes]` of mixed images, which sum to 1.
        """

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities `[N, num_classes]` of logits."""
