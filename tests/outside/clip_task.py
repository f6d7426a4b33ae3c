"""Classification of video clips `[N, C, T, H, W]`: a custom dataset, backbone and model; Chordate's head and metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.tv_tensors import Video

from chordate import BACKBONES, DATASETS, HEADS, MODELS, Backbone, Dataset, DatasetMeta, FeatureSpec, Model
from chordate.contracts import check_outputs, offered
from chordate.structures import Batch, Classification, ClassTargets, ImageInfo, Sample

FRAMES, SIDE = 6, 32
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}


@DATASETS.register_module()
class MovingDots(Dataset):
    """A dataset of clips of a moving dot; the classes are its four directions."""

    meta = DatasetMeta(tuple(DIRECTIONS))
    target_type = ClassTargets
    default_metric = "AccuracyMetric"

    def __init__(self, count: int, first: int = 0, **settings: Any):
        super().__init__(**settings)
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Sample:
        random = np.random.default_rng(self.first + index)
        label = index % len(DIRECTIONS)
        start, step = random.uniform(10, 22, 2), 2 * np.array(list(DIRECTIONS.values())[label])
        y, x = np.mgrid[:SIDE, :SIDE] + 0.5
        frames = []
        for time in range(FRAMES):
            px, py = start + (time - FRAMES / 2) * step
            frames.append(255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 10))
        clip = torch.from_numpy(np.stack(frames).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
        return {"image": Video(clip), "label": label, "info": ImageInfo(index, f"{index}.mp4", SIDE, SIDE)}

    def collate(self, samples: Sequence[Sample], size_divisor: int = 1) -> Batch:
        """Stack clips of equal size to `[N, C, T, H, W]`."""
        clips = torch.stack([sample["image"].as_subclass(Tensor).transpose(0, 1) for sample in samples])
        sizes = torch.tensor([clip.shape[-2:] for clip in clips])
        return Batch(clips, sizes, [s["info"] for s in samples], ClassTargets.collate(samples, (SIDE, SIDE)))


@BACKBONES.register_module()
class ClipNet(Backbone):
    """A backbone of 3×3×3 convolutions: c2 `[N, C, T, H / 4, W / 4]` and c3 `[N, 2 C, T / 2, H / 8, W / 8]`."""

    def __init__(self, width: int = 8, frames: int = FRAMES):
        super().__init__()
        self.frames = frames
        self.stem = nn.Conv3d(3, width, 3, (1, 4, 4), 1)
        self.stage = nn.Sequential(nn.BatchNorm3d(width), nn.ReLU(), nn.Conv3d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.out_features = {"c2": FeatureSpec(width, 4), "c3": FeatureSpec(2 * width, 8)}

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        return 3, self.frames, height, width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        c2 = self.stem(images)
        return {"c2": c2, "c3": self.stage(c2)}


@MODELS.register_module()
class ClipClassifier(Model):
    """A classifier with Chordate's classification head."""

    def __init__(self, meta: DatasetMeta, backbone: Any, head: Any = "ClassificationHead"):
        super().__init__()
        self.meta = meta
        self.backbone = BACKBONES.build(backbone)
        check_outputs(self.backbone)
        self.head = HEADS.build(head, facts=meta.facts(), in_features=offered(self.backbone))

    def logits(self, batch: Batch) -> Tensor:
        return self.head(self.backbone(batch.images.float() / 255))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.head.loss(self.logits(batch), batch.targets.labels)

    def predict(self, batch: Batch) -> list[Classification]:
        return [Classification(scores) for scores in self.head.probabilities(self.logits(batch))]
