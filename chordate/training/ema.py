"""Exponential moving average of a model's weights, often more accurate than the weights of the last step."""

from copy import deepcopy

import torch
from torch import nn


class WeightAverage:
    """Keeps `average = d · average + (1 - d) · weights`, updated after every step.

    Parameters and floating-point buffers are averaged, so that BatchNorm's statistics fit the averaged weights;
    integer buffers are copied. After `n` steps, `d` is at most (1 + n) / (10 + n) (as in TensorFlow's
    ExponentialMovingAverage), so that the random initialization soon has little weight. `d` depends only on the
    iteration, so there is no state besides the weights.

    `torch.optim.swa_utils.AveragedModel` computes equal averages (tested), but copies its counter to the device in
    every update, which synchronizes with the GPU.

    Args:
        model: the model whose weights the average starts from.
        decay: `d` after the warm-up, between 0 and 1.

    Attributes:
        module: the copy of the model with averaged weights, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.module = deepcopy(model).requires_grad_(False)
        self.module.eval()

    @torch.no_grad()
    def update(self, model: nn.Module, iteration: int) -> None:
        """Update the average with `model`'s weights; `iteration` is counted from 1."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values()))
        averages, values = map(list, zip(*(pair for pair in pairs if pair[0].is_floating_point())))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
