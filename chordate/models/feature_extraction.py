"""Extracts feature vectors of images: an averaged backbone feature map, or the input of the model's last layer."""

from __future__ import annotations

import torch
from torch import Tensor

from chordate.errors import ConfigError, unknown
from chordate.model_contracts import Model
from chordate.structures import Batch


@torch.no_grad()
def feature_vectors(model: Model, batch: Batch, map: str | None = None) -> Tensor:
    """Compute the feature vectors `[N, C]` of a batch, float32, on the model's device.

    Args:
        model: a model in evaluation mode.
        batch: a batch of images with values 0 … 255.
        map: name of the backbone's feature map to average over each image; None for the input of the model's last layer
            (`Model.embed`).

    Raises:
        ConfigError: the feature map does not exist, `map` is None and `Model.embed` returns None, or the model does not
            implement `backbone_features`.
    """
    if map is None:
        embedded = model.embed(batch)
        if embedded is not None:
            return embedded.float()
    features = model.backbone_features(batch)
    if map is None:
        names = ", ".join(features)
        raise ConfigError(f"{type(model).__name__} has no default feature vectors; set map (--map) to one of {names}")
    if map not in features:
        raise ConfigError(unknown("feature map of the backbone", map, features))
    padded, grid = (torch.tensor(x.shape[-2:], device=batch.sizes.device) for x in (batch.images, features[map]))
    cells = -(-batch.sizes * grid // padded)  # exclude cells in the padding
    pairs = zip(features[map].float(), cells.tolist())
    return torch.stack([x[..., :height, :width].flatten(1).mean(1) for x, (height, width) in pairs])
