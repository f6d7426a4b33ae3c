"""Heatmap-based landmark detection, one set of landmarks per image: a task with additional metadata fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.tv_tensors import Image

from chordate import (
    BACKBONES,
    DATASETS,
    HEADS,
    METRICS,
    MODELS,
    Dataset,
    DatasetMeta,
    Metric,
    Model,
    Prediction,
    Targets,
)
from chordate.contracts import FeatureSpec, offered
from chordate.distributed import all_gather_object
from chordate.structures import Batch, ImageInfo, Sample
from chordate.visualization import draw, draw_targets

SIDE = 64  # image height and width in pixels


@dataclass
class LandmarkTargets(Targets):
    """Ground-truth landmarks: `points` `[N, L, 2]`, x and y in pixels."""

    points: Tensor

    @classmethod
    def collate(cls, samples: Sequence[Sample], size: tuple[int, int]) -> "LandmarkTargets":
        return cls(torch.stack([sample["points"] for sample in samples]))


@dataclass
class Landmarks(Prediction):
    """Predicted landmarks: `points` `[L, 2]`, x and y in pixels of the original image, and `scores` `[L]`."""

    points: Tensor
    scores: Tensor

    def to_records(self, meta: DatasetMeta) -> list[dict[str, Any]]:
        return [dict(zip(meta.extra["landmarks"], self.points.tolist()))]


@DATASETS.register_module()
class ThreeDots(Dataset):
    """A dataset of gray images with a red, a green and a blue dot, whose centers are the landmarks."""

    meta = DatasetMeta(extra={"landmarks": ["red", "green", "blue"], "num_landmarks": 3, "heatmap_sigma": 1.0})
    target_type = LandmarkTargets
    default_metric = "LandmarkDistance"

    def __init__(self, count: int, first: int = 0, **settings: Any):
        super().__init__(**settings)
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Sample:
        random = np.random.default_rng(self.first + index)
        points = random.uniform(8, SIDE - 8, (3, 2)).astype(np.float32)
        y, x = np.mgrid[:SIDE, :SIDE] + 0.5
        image = np.full((3, SIDE, SIDE), 90.0)
        for color, (px, py) in enumerate(points):
            image[color] += 160 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18)
        return {
            "image": Image(torch.from_numpy(image.clip(0, 255).astype(np.uint8))),
            "points": torch.from_numpy(points),
            "info": ImageInfo(index, f"{index}.png", SIDE, SIDE),
        }


@HEADS.register_module()
class HeatmapHead(nn.Module):
    """Predicts one heatmap per landmark; the dataset's metadata define the number of landmarks and the peaks' sigma."""

    def __init__(self, in_features: dict[str, FeatureSpec], num_landmarks: int, heatmap_sigma: float):
        super().__init__()
        self.level, spec = next(iter(in_features.items()))
        self.stride, self.sigma = spec.stride, heatmap_sigma
        self.heatmaps = nn.Conv2d(spec.channels, num_landmarks, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.heatmaps(features[self.level])

    def loss(self, heatmaps: Tensor, points: Tensor) -> dict[str, Tensor]:
        rows, columns = heatmaps.shape[-2:]
        y = (torch.arange(rows, device=points.device) + 0.5)[:, None]
        x = torch.arange(columns, device=points.device) + 0.5
        center = (points / self.stride)[..., None, None]
        distance = (x - center[:, :, 0]) ** 2 + (y - center[:, :, 1]) ** 2
        return {"heatmap": 50 * (heatmaps - (-distance / (2 * self.sigma**2)).exp()).pow(2).mean()}


@MODELS.register_module()
class LandmarkDetector(Model):
    def __init__(self, meta: DatasetMeta, backbone: Any, head: Any = "HeatmapHead"):
        super().__init__()
        self.meta = meta
        self.backbone = BACKBONES.build(backbone)
        self.head = HEADS.build(head, facts=meta.facts(), in_features=offered(self.backbone))

    def heatmaps(self, batch: Batch) -> Tensor:
        return self.head(self.backbone((batch.images.float() - 90) / 60))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.head.loss(self.heatmaps(batch), batch.targets.points)

    def predict(self, batch: Batch) -> list[Landmarks]:
        heatmaps = self.heatmaps(batch)
        scores, place = heatmaps.flatten(2).max(2)
        columns = heatmaps.shape[-1]
        points = (torch.stack((place % columns, place // columns), -1) + 0.5) * self.head.stride
        return [Landmarks(*pair) for pair in zip(points, scores)]


@METRICS.register_module()
class LandmarkDistance(Metric):
    """Mean distance in pixels between predicted and ground-truth landmarks."""

    lower_is_better = ("distance",)

    def __init__(self, dataset: Dataset):
        self.distances: list[float] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        for prediction, truth in zip(predictions, batch.targets.points.cpu(), strict=True):
            assert isinstance(prediction, Landmarks)
            self.distances.append(float((prediction.points.cpu() - truth).norm(dim=1).mean()))

    def compute(self) -> dict[str, float]:
        distances = [distance for part in all_gather_object(self.distances) for distance in part]
        self.distances = []
        self.numbers = {"distance": float(np.mean(distances))}
        return self.numbers


def crosses(points: Tensor, image: np.ndarray) -> np.ndarray:
    picture = image.copy()
    for x, y in points.round().long().tolist():
        picture[max(y - 3, 0) : y + 4, x] = picture[y, max(x - 3, 0) : x + 4] = 255
    return picture


@draw.register
def _(prediction: Landmarks, image: np.ndarray, meta: DatasetMeta, **options: Any) -> np.ndarray:
    return crosses(prediction.points, image)


@draw_targets.register
def _(targets: LandmarkTargets, index: int, image: np.ndarray, meta: DatasetMeta, **options: Any) -> np.ndarray:
    return crosses(targets.points[index], image)
