"""SemanticSegmenter: a backbone, an optional neck, and a head that predicts a class per pixel."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonNegativeFloat, PositiveInt, validate_settings
from chordate.contracts import FeatureSpecs, check_outputs, offered
from chordate.errors import ConfigError
from chordate.model_contracts import Model, check_batch
from chordate.models.parts import Part, not_exported, parts_of, wrong_targets
from chordate.models.preprocess import Normalize
from chordate.models.semantic_tta import SemanticTTA
from chordate.models.sliding_window import SlidingWindow
from chordate.ops.argmax_resize import argmax_at_original_size
from chordate.ops.boxes import at_least_float32
from chordate.pixel_contracts import PixelHead, check_pixel_head
from chordate.registry import BACKBONES, HEADS, MODELS, NECKS
from chordate.structures import Batch, DatasetMeta
from chordate.structures.semantic import SemanticMap, SemanticTargets


@MODELS.register_module()
class SemanticSegmenter(Model):
    """A backbone, an optional neck, and a semantic head.

    Args:
        meta: metadata of the dataset.
        backbone, neck, head: a variant's name, a dict with `type` and the part's own arguments, or a built module; the
            head is a `PixelHead`. Without a neck, the head reads the backbone's feature maps.
        auxiliary: a second PixelHead on the backbone's feature maps, used only for the training loss.
        auxiliary_weight: weight of the auxiliary head's losses.
        preprocess: arguments of `Normalize`, `dict(mean=…, std=…, bgr=…)`; None for ImageNet's mean and std.
        window: arguments of `SlidingWindow`, `dict(size=(769, 769), stride=(513, 513))`, to predict overlapping
            windows; None to predict the whole image at once.
        tta: arguments of `SemanticTTA`, `dict(scales=[0.75, 1.0, 1.25], flip=True)`, applied to each window if
            `window` is set; None for no test-time augmentation.
        size_divisor: images are padded to multiples of this many pixels.

    Raises:
        ConfigError: two parts do not fit together (the message names both), or the metadata has no classes.
    """

    example_size = (512, 1024)

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        head: Part,
        neck: Part | None = None,
        auxiliary: Part | None = None,
        auxiliary_weight: NonNegativeFloat = 0.4,
        preprocess: dict[str, Any] | None = None,
        window: dict[str, Any] | None = None,
        tta: dict[str, Any] | None = None,
        size_divisor: PositiveInt = 1,
    ):
        super().__init__()
        if not meta.classes:
            raise ConfigError("SemanticSegmenter needs class names, from the dataset or from fallback_meta.classes")
        self.meta, self.size_divisor, self.auxiliary_weight = meta, size_divisor, auxiliary_weight
        self.preprocess = validate_settings(Normalize, preprocess, "preprocess")
        self.backbone = BACKBONES.build(backbone)
        self.neck = None if neck is None else NECKS.build(neck, in_features=offered(self.backbone))
        check_outputs(self.backbone, in_channels=len(self.preprocess.mean), neck=self.neck)
        parts: dict[str, Any] = {"facts": meta.facts(), "contract": PixelHead}
        self.head: PixelHead = HEADS.build(head, in_features=self.feature_specs(), **parts)
        check_pixel_head(self.head, self.feature_specs(), len(meta.classes))
        self.auxiliary: PixelHead | None = None
        if auxiliary is not None:
            self.auxiliary = HEADS.build(auxiliary, in_features=offered(self.backbone), **parts)
            check_pixel_head(self.auxiliary, offered(self.backbone), len(meta.classes))
        self.window = None if window is None else validate_settings(SlidingWindow, window, "window")
        self.tta = None if tta is None else validate_settings(SemanticTTA, tta, "tta")

    def feature_specs(self) -> FeatureSpecs:
        return offered(self.backbone if self.neck is None else self.neck)

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def logits(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Logits `[N, num_classes, h, w]` of images `[N, C, H, W]` with `sizes` `[N, 2]`, at the stride of the head."""
        maps = self.backbone(self.preprocess(images, sizes))
        return self.head(maps if self.neck is None else self.neck(maps))

    def scores(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Logits `[N, num_classes, h, w]`; with test-time augmentation, mean probabilities `[N, num_classes, H, W]`."""
        if self.tta is not None:
            return self.tta(images, sizes, self.logits, self.size_divisor)
        return self.logits(images, sizes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if not isinstance(batch.targets, SemanticTargets):
            raise wrong_targets(self, batch.targets, SemanticTargets)
        labels = batch.targets.labels
        maps = self.backbone_features(batch)
        losses = self.head.loss(self.head(maps if self.neck is None else self.neck(maps)), labels)
        if self.auxiliary is not None:
            auxiliary = self.auxiliary.loss(self.auxiliary(maps), labels)
            losses |= {f"auxiliary_{name}": self.auxiliary_weight * value for name, value in auxiliary.items()}
        return losses

    def dense_parts(self) -> list[nn.Module]:
        return [*super().dense_parts(), *parts_of(self.head)]

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`labels` `[N, H, W]` int32, the class of each pixel."""
        for setting in ("window", "tta"):
            if getattr(self, setting) is not None:
                raise not_exported(self, setting)
        logits = at_least_float32(self.logits(images, sizes))
        logits = F.interpolate(logits, (images.shape[-2], images.shape[-1]), mode="bilinear")
        return {"labels": logits.max(dim=1).indices.int()}

    def from_tensors(self, tensors: Mapping[str, Tensor], batch: Batch) -> list[SemanticMap]:
        predictions = []
        for labels, info, (height, width) in zip(tensors["labels"], batch.infos, batch.sizes.tolist()):
            own = labels[None, None, :height, :width].float()
            resized = F.interpolate(own, (info.height, info.width), mode="nearest-exact")
            predictions.append(SemanticMap(resized[0, 0].short()))
        return predictions

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[SemanticMap]:
        check_batch(self, batch)
        if self.window is not None:
            return [SemanticMap(labels) for labels in self.window.predict(self.scores, batch)]
        labels: dict[int, Tensor] = {}
        for indices, part in by_size(batch, self.size_divisor):
            labels |= zip(indices, argmax_at_original_size(self.scores(part.images, part.sizes), part))
        return [SemanticMap(labels[index]) for index in range(len(batch))]


def by_size(batch: Batch, size_divisor: int) -> Iterator[tuple[list[int], Batch]]:
    """Split a batch into batches of images of equal size, without the padding to the size of larger images.

    Global pooling, pyramid pooling and GroupNorm average over the whole feature map, so with the padding, predictions
    would depend on the sizes of the other images in the batch.

    Yields:
        The indices of the images in `batch`, and the batch of these images, without targets.
    """
    indices: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(batch.sizes.tolist()):
        indices.setdefault(tuple(size), []).append(index)
    for size, chosen in indices.items():
        height, width = (-(-side // size_divisor) * size_divisor for side in size)
        infos = [batch.infos[index] for index in chosen]
        yield chosen, Batch(batch.images[chosen, :, :height, :width], batch.sizes[chosen], infos)
