"""Image classifier: a backbone and a classification head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chordate.arguments import validate_settings
from chordate.contracts import check_outputs, offered
from chordate.head_contracts import ImageHead
from chordate.model_contracts import Model, check_batch
from chordate.models.classifier_tta import CLASSIFIER_TTA
from chordate.models.parts import Part, not_exported, wrong_targets
from chordate.models.preprocess import Normalize
from chordate.registry import BACKBONES, HEADS, MODELS, TRANSFORMS
from chordate.structures import Batch, Classification, ClassTargets, DatasetMeta


@MODELS.register_module()
class ImageClassifier(Model):
    """Image classifier: backbone and classification head.

    Args:
        meta: metadata of the dataset.
        backbone, head: a variant's name, a dict with `type` and arguments, or an nn.Module; the head is an `ImageHead`.
        preprocess: arguments of `Normalize`, `dict(mean=…, std=…, bgr=…)`; None for ImageNet's statistics.
        mix: `MixUp` or `CutMix` of torchvision.transforms.v2, as dicts with `type`, applied to training batches. If
            there are several, one is drawn at random for each batch.
        tta: test-time augmentation, a dict with `type` (see `classifier_tta.py`); None for no test-time augmentation.

    Raises:
        ConfigError: backbone, head and `preprocess` do not fit together.
    """

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        head: Part = "ClassificationHead",
        preprocess: dict[str, Any] | None = None,
        mix: Sequence[dict[str, Any]] = (),
        tta: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.meta = meta
        self.preprocess = validate_settings(Normalize, preprocess, "preprocess")
        self.backbone = BACKBONES.build(backbone)
        check_outputs(self.backbone, in_channels=len(self.preprocess.mean))
        self.example_size = self.backbone.example_size
        features = offered(self.backbone)
        self.head: ImageHead = HEADS.build(head, facts=meta.facts(), contract=ImageHead, in_features=features)
        with torch.device("cpu"):  # MixUp's Beta distribution stays on the CPU, even if the model is built elsewhere
            self.mix = [TRANSFORMS.build(one | {"num_classes": len(meta.classes)}) for one in mix]
        self.tta = None if tta is None else CLASSIFIER_TTA.build(tta)

    def logits(self, images: Tensor) -> Tensor:
        """Logits `[N, num_classes]` of normalized images `[N, C, H, W]`."""
        return self.head(self.backbone(images))

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities `[N, num_classes]` of normalized images `[N, C, H, W]`."""
        return self.head.probabilities(self.logits(images))

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def embed(self, batch: Batch) -> Tensor:
        return self.head.pool(self.backbone_features(batch))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and the error rate of a batch. For mixed images, the class with the largest weight counts as true.

        Raises:
            DataError: the batch has no targets, or targets of another task.
        """
        if not isinstance(batch.targets, ClassTargets):
            raise wrong_targets(self, batch.targets, ClassTargets)
        labels = batch.targets.labels
        logits = self.logits(self.preprocess(batch.images, batch.sizes))
        main = labels if labels.ndim == 1 else labels.argmax(dim=1)
        wrong = (logits.detach().argmax(dim=1) != main).float().mean()
        return {**self.head.loss(logits, labels), "error": wrong}

    def augment_batch(self, batch: Batch) -> Batch:
        """Apply a random transform of `mix` to a training batch: mixes images and converts labels to soft targets."""
        if not self.mix or batch.targets is None:
            return batch
        chosen = int(torch.randint(len(self.mix), ()))  # on the CPU, to avoid a host sync
        # Blending before normalization gives the same result as blending after it.
        images, labels = self.mix[chosen](batch.images.float(), batch.targets.labels)
        return Batch(images, batch.sizes, batch.infos, ClassTargets(labels))

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`scores` `[N, classes]`: the probabilities."""
        if self.tta is not None:
            raise not_exported(self, "tta")
        return {"scores": self.probabilities(self.preprocess(images, sizes))}

    def from_tensors(self, tensors: Mapping[str, Tensor], batch: Batch) -> list[Classification]:
        return [Classification(row) for row in tensors["scores"]]

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Classification]:
        check_batch(self, batch)
        images = self.preprocess(batch.images, batch.sizes)
        scores = self.probabilities(images) if self.tta is None else self.tta(images, self.probabilities)
        return [Classification(row) for row in scores]
