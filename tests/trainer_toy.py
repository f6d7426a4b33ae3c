"""A model, a dataset and a metric small enough to train hundreds of times, for the tests of the trainer.

The model has dropout and BatchNorm, and the dataset has an augmentation that depends only on (seed, epoch, index), so
that exact resuming can be tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from chordate.data.loader import Loader, start_worker
from chordate.distributed import all_gather_object
from chordate.model_contracts import Metric, Model
from chordate.structures import Batch, DatasetMeta, Detections, ImageInfo
from chordate.training.trainer import Trainer

torch.set_num_threads(1)
SIDE = 8


class ToyData(Dataset[Any]):
    """A dataset of noise images, whose mean the model predicts; augmentation adds noise, and image `bad` is NaN."""

    classes = ("bright",)

    def __init__(self, images: int, seed: int = 0, augment: bool = True, bad: int | None = None):
        self.images, self.seed, self.augment, self.bad = images, seed, augment, bad

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        image = np.random.default_rng((self.seed, index)).integers(0, 200, (3, SIDE, SIDE))
        if self.augment:
            image = image + np.random.default_rng((self.seed, epoch, index)).integers(0, 50, image.shape)
        tensor = torch.from_numpy(image).float()
        return (tensor * float("nan") if index == self.bad else tensor), index


class ToyBatches(Sampler[Any]):
    """A batch sampler of (epoch, index) keys, in order or shuffled per epoch; can start at any batch of an epoch."""

    def __init__(self, images: int, batch_size: int, shuffle: bool = True, rank: int = 0, world_size: int = 1):
        self.images, self.batch_size, self.shuffle = images, batch_size, shuffle
        self.rank, self.world_size = rank, world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.epoch, self.start = epoch, start_batch

    def __len__(self) -> int:
        return len(self.batches())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches()[self.start :])

    def batches(self) -> list[list[tuple[int, int]]]:
        order = np.random.default_rng(self.epoch).permutation(self.images) if self.shuffle else np.arange(self.images)
        size = self.batch_size * self.world_size
        steps = [order[i : i + size] for i in range(0, self.images, size)]
        return [[(self.epoch, int(index)) for index in step[self.rank :: self.world_size]] for step in steps]


def collate(samples: list[tuple[Tensor, int]]) -> Batch:
    images = torch.stack([image for image, _ in samples])
    sizes = torch.full((len(samples), 2), SIDE)
    return Batch(images, sizes, [ImageInfo(index, f"{index}.jpg", SIDE, SIDE) for _, index in samples])


class ToyModel(Model):
    """A model of two convolutions, BatchNorm and dropout, with two losses."""

    def __init__(self, classes: tuple[str, ...] = ("bright",), dropout: float = 0.3, norm: bool = True, width: int = 4):
        super().__init__()
        self.meta = DatasetMeta(classes)
        norm_layer = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), norm_layer)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, len(classes), 1)

    def scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.float() / 255
        return self.head(self.dropout(self.backbone(images).relu())).mean((1, 2, 3)), images.mean((1, 2, 3))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        scores, wanted = self.scores(batch)
        return {"fit": (scores - wanted).pow(2).mean(), "size": 0.01 * scores.pow(2).mean()}

    def predict(self, batch: Batch) -> list[Detections]:
        sizes = [(info.width, info.height) for info in batch.infos]
        return [
            Detections(torch.tensor([[0.0, 0, w, h]]), score.reshape(1), torch.zeros(1, dtype=torch.int64))
            for score, (w, h) in zip(self.scores(batch)[0], sizes)
        ]


class ToyMetric(Metric):
    """A metric: the mean score, the number of predictions, and the largest number of predictions for one image."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def update(self, predictions: list[Detections], batch: Batch) -> None:
        self.seen += [(info.image_id, float(d.scores[0])) for info, d in zip(batch.infos, predictions)]

    def compute(self) -> dict[str, float]:
        seen = sorted(pair for part in all_gather_object(self.seen) for pair in part)
        self.seen = []
        counts = [sum(1 for other, _ in seen if other == image) for image, _ in seen]
        return {
            "toy_AP": float(np.mean([score for _, score in seen])),
            "toy_images": float(len(seen)),
            "toy_most": float(max(counts)),
        }


def toy_loader(images: int = 22, batch_size: int = 4, workers: int = 0, training: bool = True, **options: Any) -> Any:
    shares = {name: options.pop(name) for name in ("rank", "world_size") if name in options}
    return Loader(
        ToyData(images, augment=training, **options),
        batch_sampler=ToyBatches(images, batch_size, shuffle=training, **shares),
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=start_worker,
    )


OPTIMIZER = {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}


def toy_config(optimizer: dict[str, Any] | None = None, schedule: dict[str, Any] | None = None, **train: Any) -> dict:
    train = {"log_every": 1, "tensorboard": False, **train}
    if "epochs" not in train and "iterations" not in train:
        train["epochs"] = 3
    return {"optimizer": optimizer or OPTIMIZER, "schedule": schedule, "train": train}


def toy_trainer(work_dir: str | Path, *, model: Model | None = None, loader: Any = None, **options: Any) -> Trainer:
    """A Trainer for the toy model and data; `options` are arguments of `toy_config` and of Trainer."""
    trainer_names = ("resume", "callbacks", "val_loader", "metric")
    trainer_options = {name: options.pop(name) for name in trainer_names if name in options}
    torch.manual_seed(0)
    return Trainer(
        ToyModel() if model is None else model,
        toy_loader() if loader is None else loader,
        **toy_config(**options),
        work_dir=work_dir,
        **trainer_options,
    )


def log_text(trainer: Trainer) -> str:
    """The contents of the trainer's text log."""
    return (trainer.log_dir / "train.log").read_text()


def read_log(work_dir: str | Path, mode: str = "train") -> list[dict[str, Any]]:
    """The records of `log.jsonl` with this `mode`, without the measured speed."""
    lines = [json.loads(line) for line in (Path(work_dir) / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines if line["mode"] == mode]
