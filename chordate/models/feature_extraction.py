"""Feature vectors of images: a backbone's map averaged over each image, or the inputs of the model's last layer."""

from __future__ import annotations

import torch
from torch import Tensor

from chordate.errors import ConfigError, unknown
from chordate.model_contracts import Model
from chordate.structures import Batch


@torch.no_grad()
def feature_vectors(model: Model, batch: Batch, map: str | None = None) -> Tensor:
    """Features `[N, C]` float32 of a batch, on the model's device.

    Args:
        model: in evaluation mode.
        batch: a batch of images with values 0 … 255.
        map: name of a backbone map; None for the inputs of the last layer (`Model.embed`).

    Raises:
        ConfigError: the map does not exist, or is None for a model without `embed`.
    """
    if map is None:
        embedded = model.embed(batch)
        if embedded is not None:
            return embedded.float()
    features = model.backbone_features(batch)
    if map is None:
        names = ", ".join(features)
        raise ConfigError(f"{type(model).__name__} has no feature vectors; name the map to average: {names}")
    if map not in features:
        raise ConfigError(unknown("map of the backbone", map, features))
    padded, grid = (torch.tensor(x.shape[-2:], device=batch.sizes.device) for x in (batch.images, features[map]))
    cells = -(-batch.sizes * grid // padded)  # exclude cells in the padding
    pairs = zip(features[map].float(), cells.tolist())
    return torch.stack([x[..., :height, :width].flatten(1).mean(1) for x, (height, width) in pairs])
