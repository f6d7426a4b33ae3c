"""Feature vectors of images: a backbone's map averaged over each image, or what a classifier's last layer reads."""

from __future__ import annotations

import torch
from torch import Tensor

from chordate.contracts import Model
from chordate.errors import ConfigError, unknown
from chordate.structures import Batch


@torch.no_grad()
def feature_vectors(model: Model, batch: Batch, map: str | None = None) -> Tensor:
    """Features `[N, C]` float32 of a batch, on the model's device.

    Args:
        model: in evaluation mode.
        batch: of images 0 … 255.
        map: of the model's backbone; None for what a classifier's last layer reads (`Model.embed`).

    Raises:
        ConfigError: no such map, or none named for a model that does not classify.
    """
    if map is None:
        embedded = model.embed(batch)
        if embedded is None:
            names = ", ".join(model.backbone.out_features)
            raise ConfigError(f"{type(model).__name__} is no classifier; name the map to average: {names}")
        return embedded.float()
    specs = model.backbone.out_features
    if map not in specs:
        raise ConfigError(unknown("map of the backbone", map, specs))
    features = model.backbone_features(batch)[map].float()
    cells = -(-batch.sizes // specs[map].stride)  # the rest lies in the padding
    return torch.stack(
        [x[..., :height, :width].flatten(1).mean(1) for x, (height, width) in zip(features, cells.tolist())]
    )
