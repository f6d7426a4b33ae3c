"""The image classifier: a backbone and a classification head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chordate import checks
from chordate.contracts import Model, check_outputs, offered
from chordate.errors import DataError
from chordate.models.detector import Part
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalize
from chordate.models.views import build_views
from chordate.registry import BACKBONES, HEADS, MODELS, TRANSFORMS
from chordate.structures import Batch, Classification, ClassTargets, DatasetMeta


@MODELS.register_module()
class ImageClassifier(Model):
    """Backbone and head, wired to one another.

    Args:
        meta: of the data set.
        backbone, head: a variant's name, a dict with `type` and the part's own arguments, or a built module.
        mean, std, bgr: see `Normalize`; the backbone's weights decide.
        mix: transforms of whole training batches, `MixUp` and `CutMix` of torchvision.transforms.v2, as dicts with
            `type`; one of them is drawn for each batch.
        views: how an image is looked at in testing, a dict with `type`, see `models/views.py`; None is once, as it
            comes.

    Raises:
        ConfigError: two parts do not fit together, or a setting is out of its range.
    """

    def __init__(
        self,
        meta: DatasetMeta,
        backbone: Part,
        head: Part = "ClassificationHead",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        mix: Sequence[Mapping[str, Any]] = (),
        views: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.meta = meta
        self.preprocess = Normalize(mean, std, bgr)
        self.backbone = BACKBONES.build(backbone)
        self.example_size = self.backbone.example_size
        check_outputs(self.backbone, in_channels=len(mean))
        self.head: Any = HEADS.build(head, facts=meta.facts(), in_features=offered(self.backbone))
        with torch.device("cpu"):  # where they draw, whatever device the model is built on
            self.mix = [
                TRANSFORMS.build(
                    {**checks.section("model.mix, each of its list,", one), "num_classes": len(meta.classes)}
                )
                for one in checks.listed("model.mix", mix)
            ]
        self.views = build_views(views)

    def logits(self, images: Tensor) -> Tensor:
        """Raw scores `[N, num_classes]` of normalised images `[N, 3, H, W]`."""
        return self.head(self.backbone(images))

    def backbone_features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocess(batch.images, batch.sizes))

    def embed(self, batch: Batch) -> Tensor:
        return self.head.pool(self.backbone_features(batch))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, and the error rate of the batch.

        Raises:
            DataError: a training batch without labels.
        """
        if batch.targets is None:
            raise DataError("a batch without targets cannot be trained on; call model.predict to predict")
        augmented = self.augment_batch(batch)
        logits = self.logits(self.preprocess(augmented.images, augmented.sizes))
        wrong = (logits.detach().argmax(dim=1) != batch.targets.labels).float().mean()
        return {**self.head.loss(logits, augmented.targets.labels), "error": wrong}

    def augment_batch(self, batch: Batch) -> Batch:
        """Mix the images of a batch, and weight their classes, where there is a `mix`."""
        if not self.mix:
            return batch
        # Before normalization: blending commutes with it.
        images, labels = self.mixed(batch.images.float(), batch.targets.labels)
        return Batch(images, batch.sizes, batch.infos, ClassTargets(labels))

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[N, 3, H, W]` and classes `[N]` as training takes them: blended, with shares `[N, num_classes]`,
        where there is a `mix`."""
        if not self.mix:
            return images, labels
        chosen = int(torch.randint(len(self.mix), ()))  # on the CPU: waits for no device
        return self.mix[chosen](images, labels)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Classification]:
        images = self.preprocess(batch.images, batch.sizes)
        scores = self.views(images, lambda view: self.head.probabilities(self.logits(view)))
        return [Classification(row) for row in scores]
