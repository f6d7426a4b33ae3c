"""Features of images, averaged over each image's cells, and files of them for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from chordate.errors import ConfigError, unknown
from chordate.structures import Batch

SUFFIXES = (".npz", ".safetensors")


def batch_features(model: Any, batch: Batch, map: str | None = None) -> Tensor:
    """Features `[N, C]` float32 of a batch on the model's device.

    Args:
        model: in eval mode.
        batch: of images 0 … 255.
        map: of the model's backbone; None is what a classifier's last layer reads (`ImageClassifier.pooled`).

    Raises:
        ConfigError: no such map, or none named for a model that does not classify.
    """
    images = model.preprocess(batch.images, batch.sizes)
    if map is None:
        if not hasattr(model, "pooled"):
            known = ", ".join(model.backbone.out_features)
            raise ConfigError(f"{type(model).__name__} is no classifier; name the map to average: {known}")
        return model.pooled(images).float()
    specs = model.backbone.out_features
    if map not in specs:
        raise ConfigError(unknown("map of the backbone", map, specs))
    cells = model.backbone(images)[map].float()
    inside = -(-batch.sizes // specs[map].stride)  # the rest lies in the padding
    return torch.stack([x[:, :height, :width].mean((1, 2)) for x, (height, width) in zip(cells, inside.tolist())])


def check_features_file(path: Path) -> None:
    """Raise ConfigError unless `save_features` can write there."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: features are written as {' or '.join(SUFFIXES)}; choose one of these endings")
    if path.is_dir():
        raise ConfigError(f"{path}: a folder; name the file to write")


def save_features(
    path: Path, features: Tensor, files: Sequence[str], labels: Tensor | None = None, classes: Sequence[str] = ()
) -> None:
    """Write one row an image: `features` `[N, C]`, `labels` `[N]` where they are known, `files` and `classes`.

    In `.safetensors`, which holds numbers only, `files` and `classes` are JSON lists in the metadata.
    """
    numbers = {"features": features} if labels is None else {"features": features, "labels": labels}
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in numbers.items()}
        np.savez(path, files=np.array(files), classes=np.array(classes, dtype=np.str_), **arrays)
        return
    names = {"files": json.dumps(list(files)), "classes": json.dumps(list(classes))}
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in numbers.items()}, path, names)
