"""A tiny task, and custom datasets and metrics that each violate their contract in one way."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.tv_tensors import Image

from chordate import (
    DATASETS,
    METRICS,
    MODELS,
    Dataset,
    DatasetMeta,
    Metric,
    Model,
    Prediction,
    Targets,
)
from chordate.structures import Batch, ClassTargets, ImageInfo, InstanceTargets, Layout, Sample


@dataclass
class Brightness(Targets):
    """Targets: the brightness of each image, `value` `[N]`, 0 … 1."""

    value: Annotated[Tensor, Layout("N", dtype=torch.float32)]

    @classmethod
    def collate(cls, samples: list[Sample], size: tuple[int, int]) -> "Brightness":
        return cls(torch.stack([sample["value"] for sample in samples]))


@dataclass
class Guess(Prediction):
    value: Tensor


@DATASETS.register_module()
class Gray(Dataset):
    """A valid dataset (unlike the others here): gray images with their brightness as target."""

    meta = DatasetMeta(extra={"unit": "share"})
    target_type = Brightness
    default_metric = "MeanError"

    def __init__(self, **settings: Any):
        super().__init__(**settings)

    def __len__(self) -> int:
        return 4

    def read(self, index: int) -> Sample:
        value = torch.tensor(index / 4)
        image = Image((255 * value).to(torch.uint8).expand(3, 16, 16).clone())
        return {"image": image, "value": value, "info": ImageInfo(index, f"{index}.png", 16, 16)}


@DATASETS.register_module()
class InfoIsADict(Gray):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "info": {"image_id": index}}


@DATASETS.register_module()
class InfoHasAText(Gray):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "info": ImageInfo(f"image {index}", "x.png", 16, 16)}


@DATASETS.register_module()
class MetaIsADict(Gray):
    meta = {"classes": []}  # noqa: RUF012


@DATASETS.register_module()
class NoValue(Gray):
    def read(self, index: int) -> Sample:
        return {name: value for name, value in super().read(index).items() if name != "value"}


@DATASETS.register_module()
class WholeNumbers(Gray):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "value": torch.tensor(index)}


@DATASETS.register_module()
class TwoValues(Gray):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "value": torch.zeros(2)}


@DATASETS.register_module()
class TextValue(Gray):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "value": "bright"}


@DATASETS.register_module()
class ArrayImage(Gray):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "image": np.zeros((16, 16, 3), np.uint8)}


@DATASETS.register_module()
class WideImage(Gray):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "image": torch.zeros(3, 16, 16, dtype=torch.int64)}


@DATASETS.register_module()
class ScaledImage(Gray):
    """Images with values of 0 … 1; the first is black, so that only later images show the wrong range."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return {**sample, "image": Image(sample["image"] / 255)}


@DATASETS.register_module()
class LastNoValue(Gray):
    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return {name: value for name, value in sample.items() if index < 3 or name != "value"}


@DATASETS.register_module()
class OtherTargets(Gray):
    target_type = InstanceTargets

    def collate(self, samples: list[Sample], size_divisor: int = 1) -> Batch:
        images = torch.stack([sample["image"] for sample in samples])
        return Batch(images, torch.full((len(samples), 2), 16), [s["info"] for s in samples], Brightness(torch.ones(1)))


@DATASETS.register_module()
class Empty(Gray):
    def __len__(self) -> int:
        return 0


@DATASETS.register_module()
class HalfAnnotated(Gray):
    """A dataset whose `coco` attribute has the wrong type."""

    category_ids = (1,)
    coco = object()
    image_ids = np.arange(4)


@DATASETS.register_module()
class FloatLength(Gray):
    def __len__(self):
        return 4.0


@DATASETS.register_module()
class TupleSample(Gray):
    def read(self, index: int):
        return tuple(super().read(index).values())


@DATASETS.register_module()
class NoIndex(Gray):
    def read(self):
        return super().read(0)


@DATASETS.register_module()
class ThirdClass(Gray):
    meta = DatasetMeta(("dark", "bright"))
    target_type = ClassTargets

    def read(self, index: int) -> Sample:
        return {**super().read(index), "label": 2}


@DATASETS.register_module()
class NegativeClass(ThirdClass):
    def read(self, index: int) -> Sample:
        return {**super().read(index), "label": -7}


@DATASETS.register_module()
class NoRead(Dataset):
    def __len__(self) -> int:
        return 1


@DATASETS.register_module()
class NoDataset:
    def __init__(self, **settings: Any):
        pass


@MODELS.register_module()
class Guesser(Model):
    def __init__(self, meta: DatasetMeta):
        super().__init__()
        self.meta = meta
        self.scale = nn.Parameter(torch.ones(()))

    def value(self, batch: Batch) -> Tensor:
        return self.scale * batch.images.float().mean((1, 2, 3)) / 255

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"value": (self.value(batch) - batch.targets.value).abs().mean()}

    def predict(self, batch: Batch) -> list[Guess]:
        return [Guess(value) for value in self.value(batch)]


@METRICS.register_module()
class MeanError(Metric):
    def __init__(self, dataset: Dataset):
        self.errors: list[float] = []

    def update(self, predictions: list[Guess], batch: Batch) -> None:
        self.errors += [float(abs(p.value - v)) for p, v in zip(predictions, batch.targets.value)]

    def compute(self) -> dict[str, float]:
        self.numbers = {"error": float(np.mean(self.errors))}
        self.errors = []
        return self.numbers


@METRICS.register_module()
class TextNumbers(MeanError):
    def compute(self) -> dict[str, float]:
        return {"error": "small"}


@METRICS.register_module()
class OneNumber(MeanError):
    def compute(self) -> dict[str, float]:
        return 0.5


@METRICS.register_module()
class NumberedNumbers(MeanError):
    def compute(self) -> dict[str, float]:
        return {1: 0.5}


@METRICS.register_module()
class OneArgument(MeanError):
    def update(self, predictions):
        pass


@METRICS.register_module()
class NoCompute(Metric):
    def __init__(self, dataset: Dataset):
        pass

    def update(self, predictions: list[Guess], batch: Batch) -> None:
        pass


@METRICS.register_module()
class NoMetric:
    """Not a subclass of Metric: it has the methods that an evaluation calls, but not the rest of the contract."""

    def __init__(self, dataset: Dataset):
        pass

    def update(self, predictions: list[Guess], batch: Batch) -> None:
        pass

    def compute(self) -> dict[str, float]:
        return {}
