"""Monocular depth estimation on generated images: a complete task in one file, outside the package."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.tv_tensors import Image, Mask

from chordate import BACKBONES, DATASETS, METRICS, MODELS, Dataset, DatasetMeta, Metric, Model, Prediction, Targets
from chordate.distributed import all_gather_object
from chordate.structures import Batch, ImageInfo, Sample
from chordate.visualization import draw, draw_targets

FAR = 10.0  # meters


@dataclass
class DepthTargets(Targets):
    """Depth maps: `depth` `[N, H, W]` in meters, 0 in the padding."""

    depth: Tensor

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> "DepthTargets":
        depth = torch.zeros(len(samples), *size)
        for sample, into in zip(samples, depth):
            own = sample["depth"].as_subclass(Tensor)
            into[: own.shape[0], : own.shape[1]] = own
        return cls(depth)

    def describe(self, index: int) -> str:
        return f"up to {float(self.depth[index].max()):.1f} m"


@dataclass
class DepthMap(Prediction):
    """A predicted depth map: `depth` `[H, W]` in meters."""

    depth: Tensor

    def to_original(self, info: ImageInfo, size: Tensor) -> "DepthMap":
        height, width = size.tolist()
        own = self.depth[None, None, :height, :width]
        return DepthMap(F.interpolate(own, (info.height, info.width), mode="bilinear")[0, 0])

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        return [{"nearest": float(self.depth.min()), "farthest": float(self.depth.max()), "unit": meta.extra["unit"]}]


@DATASETS.register_module()
class Balls(Dataset):
    """A dataset of balls in front of a wall; nearer balls are larger and brighter."""

    meta = DatasetMeta(extra={"unit": "m"})
    target_type = DepthTargets
    default_metric = "DepthError"

    def __init__(self, count: int, first: int = 0, **settings: Any):
        super().__init__(**settings)
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Sample:
        random = np.random.default_rng(self.first + index)
        height, width = int(random.integers(40, 64)), int(random.integers(40, 64))
        depth = np.full((height, width), FAR, np.float32)
        y, x = np.mgrid[:height, :width]
        for _ in range(4):
            near = random.uniform(1, 8)
            center = random.uniform(0, height), random.uniform(0, width)
            depth[(y - center[0]) ** 2 + (x - center[1]) ** 2 < (40 / near) ** 2] = near
        image = (255 / depth)[None].repeat(3, 0) + random.normal(0, 3, (3, height, width))
        return {
            "image": Image(torch.from_numpy(image.clip(0, 255).astype(np.uint8))),
            "depth": Mask(torch.from_numpy(depth)),  # as a Mask, it is flipped and cropped with the image
            "info": ImageInfo(index, f"{index}.png", height, width),
        }


@MODELS.register_module()
class DepthEstimator(Model):
    """Predicts depth by a 1×1 convolution on the backbone's finest feature map, and resizes it to the image size."""

    size_divisor = 32

    def __init__(self, meta: DatasetMeta, backbone: Any):
        super().__init__()
        self.meta = meta
        self.backbone = BACKBONES.build(backbone)
        self.map, spec = next(iter(self.backbone.out_features.items()))
        self.depth = nn.Conv2d(spec.channels, 1, 1)

    def estimate(self, batch: Batch) -> Tensor:
        low = self.depth(self.backbone(batch.images.float() / 255)[self.map])
        return F.interpolate(low, batch.images.shape[-2:], mode="bilinear")[:, 0]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        truth = batch.targets.depth
        return {"depth": (self.estimate(batch) - truth).abs()[truth > 0].mean()}

    def predict(self, batch: Batch) -> list[DepthMap]:
        estimates = self.estimate(batch)
        return [DepthMap(e).to_original(info, size) for e, info, size in zip(estimates, batch.infos, batch.sizes)]

    def predict_tensors(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        return {"depth": self.estimate(Batch(images, sizes, []))}


@METRICS.register_module()
class DepthError(Metric):
    """Mean absolute error per image in meters, averaged over the images; the pipeline must not resize them."""

    lower_is_better = ("mean_error",)

    def __init__(self, dataset: Dataset):
        self.errors: dict[int, float] = {}

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        for prediction, truth, info in zip(predictions, batch.targets.depth.cpu(), batch.infos, strict=True):
            assert isinstance(prediction, DepthMap)
            height, width = prediction.depth.shape
            self.errors[info.image_id] = float((prediction.depth.cpu() - truth[:height, :width]).abs().mean())

    def compute(self) -> dict[str, float]:
        everyone = {image: error for part in all_gather_object(self.errors) for image, error in part.items()}
        self.errors = {}
        self.numbers = {"mean_error": float(np.mean(list(everyone.values())))}
        return self.numbers


def paint(depth: Tensor, image: np.ndarray) -> np.ndarray:
    """Draw the depth, 0 … 10 m, into the red channel of a copy of the image."""
    picture = image.copy()
    height, width = depth.shape
    picture[:height, :width, 0] = (depth.clamp(0, FAR) / FAR * 255).round().to(torch.uint8).numpy()
    return picture


@draw.register
def _(prediction: DepthMap, image: np.ndarray, meta: DatasetMeta, **options: Any) -> np.ndarray:
    return paint(prediction.depth.cpu(), image)


@draw_targets.register
def _(targets: DepthTargets, index: int, image: np.ndarray, meta: DatasetMeta, **options: Any) -> np.ndarray:
    return paint(targets.depth[index], image)
