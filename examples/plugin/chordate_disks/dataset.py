"""Disks: generated images, each of one bright disk, with label maps of background and disk."""

from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import Image

from chordate import DATASETS, Dataset, DatasetMeta, SemanticTargets
from chordate.arguments import PositiveInt
from chordate.data.label_map import label_map
from chordate.structures import ImageInfo, Sample


@DATASETS.register_module()
class Disks(Dataset):
    """Images of 64×64 pixels; the random seed of an image is its index plus `first`.

    Args:
        count: number of images.
        first: random seed of the first image; training and validation need different seeds.
        settings: arguments of `Dataset`.
    """

    meta = DatasetMeta(classes=("background", "disk"))
    target_type = SemanticTargets
    default_metric = "SemanticMetric"
    label_ids = (0, 1)  # the pixel value of each class in the label images of `chordate test --predictions`

    def __init__(self, count: PositiveInt = 64, first: int = 0, **settings: Any):
        super().__init__(**settings)
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Sample:
        disk, random = self._disk(index)
        image = torch.randint(100, (3, 64, 64), generator=random) + 120 * disk
        return {
            "image": Image(image.to(torch.uint8)),
            "labels": label_map(disk, ignored=torch.zeros_like(disk)),
            "info": ImageInfo(index, f"disk {self.first + index}", 64, 64),
        }

    def labels_of(self, index: int) -> Tensor:
        """The labels `[H, W]` of an image, for the metric."""
        return self._disk(index)[0].short()

    def _disk(self, index: int) -> tuple[Tensor, torch.Generator]:
        """The mask of a disk, `[H, W]` bool, and the random number generator for its image."""
        random = torch.Generator().manual_seed(self.first + index)
        x, y, diameter = (20 + 24 * torch.rand(3, generator=random)).tolist()
        rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        return (columns - x) ** 2 + (rows - y) ** 2 < (diameter / 2) ** 2, random
