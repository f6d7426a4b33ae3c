"""A moving average of a model's weights, often better than the weights themselves."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class WeightAverage:
    """Keeps `average = d · average + (1 - d) · weights`, updated after every iteration.

    Parameters and floating-point buffers (so that BatchNorm's statistics fit the averaged weights) are averaged,
    integers are copied. While few iterations are done, `d` is (1 + n) / (10 + n), so that the random start is soon
    forgotten (as TensorFlow's ExponentialMovingAverage does); that depends on the iteration alone and needs no state.

    Args:
        model: the model to start from; it is copied.
        decay: `d` once warmed up, 0 … 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, iterations: int) -> None:
        """Take in `model`'s weights after `iterations` iterations (1 is the first)."""
        decay = min(self.decay, (1 + iterations) / (10 + iterations))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values()))
        averages, weights = map(list, zip(*((mine, theirs) for mine, theirs in pairs if mine.is_floating_point())))
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
