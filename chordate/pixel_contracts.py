"""The contract of heads that predict a class per pixel, and checks of such heads and of their losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chordate.contracts import CHECK_OUTPUTS, READS_VALUES, FeatureSpec, meta_outputs
from chordate.errors import ConfigError, TrainingError
from chordate.model_contracts import total_loss


class PixelHead(Protocol):
    """The contract of a head that predicts a class per pixel.

    The model builds the head with `in_features` (FeatureSpecs of the available feature maps), and with those facts of
    the DatasetMeta that the head's signature names, such as `num_classes`.
    """

    def __call__(self, maps: dict[str, Tensor]) -> Tensor:
        """Predict logits `[N, num_classes, h, w]` from feature maps `[N, C, H, W]` keyed by name."""

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalar losses keyed by name, from labels `[N, H, W]` int16; pixels with the label `IGNORED` do not
        contribute."""


class WeightedPixelHead(PixelHead, Protocol):
    """The contract of a PixelHead whose loss can weight the pixels."""

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """As in `PixelHead`; `weights` `[N, H, W]` are factors of the pixels' losses, or None."""


class _LossModule(nn.Module):
    """A module whose forward is the `loss` of a head."""

    def __init__(self, head: Any):
        super().__init__()
        self.head = head

    def forward(self, *inputs: Tensor) -> Any:
        return self.head.loss(*inputs)


@torch.inference_mode(False)  # a model may be built in inference mode, which has no gradients
@torch.enable_grad()
def check_pixel_head(
    head: Any, in_features: Mapping[str, FeatureSpec], num_classes: int, weighted: bool = False
) -> None:
    """Check the logits and losses of a PixelHead for two images on the meta device (which computes only shapes).

    Skipped if the head is no nn.Module, or reads values, which meta tensors do not have. With `weighted`, `loss`
    receives weights of the pixels, as in `WeightedPixelHead`.

    Raises:
        ConfigError: the head fails, its logits are not `[N, num_classes, h, w]`, or `loss` does not return a dict of
            scalars with a gradient.
    """
    if not CHECK_OUTPUTS.get() or not isinstance(head, nn.Module):
        return
    name, side = type(head).__name__, 2 * math.lcm(64, *(spec.stride for spec in in_features.values()))
    shapes = {key: (2, spec.channels, side // spec.stride, side // spec.stride) for key, spec in in_features.items()}
    maps = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.no_grad():
        logits = meta_outputs(head, (maps,), name, f"feature maps {', '.join(in_features)}")
    if logits is READS_VALUES:
        return
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(got, list) or len(got) != 4 or got[:2] != [2, num_classes] or not logits.is_floating_point():
        raise ConfigError(f"{name}: forward must return logits [2, {num_classes}, h, w] for 2 images, got {got}")
    labels = torch.empty(2, side, side, dtype=torch.int16, device="meta")
    inputs = [logits.detach().requires_grad_(), labels, *([labels.float()] if weighted else [])]
    described = f"logits {got} and labels {list(labels.shape)}" + (" and weights of this shape" if weighted else "")
    losses = meta_outputs(_LossModule(head), tuple(inputs), f"{name}.loss", described)
    if losses is READS_VALUES:
        return
    try:
        total = total_loss(losses, source=f"{name}.loss")
    except TrainingError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(name) else f"{name}: {message}") from error
    if not total.requires_grad:
        raise ConfigError(f"{name}.loss: no loss has a gradient; compute it from the logits without detach or no_grad")


@torch.inference_mode(False)
@torch.enable_grad()
def check_pixel_loss(loss: Any, num_classes: int) -> None:
    """Check that a loss of logits `[N, num_classes, H, W]` and labels `[N, H, W]` is a module that returns a scalar.

    Skipped if the loss reads values, which meta tensors do not have.

    Raises:
        ConfigError: the loss is no nn.Module, fails, or does not return a scalar tensor.
    """
    name = type(loss).__name__
    if not isinstance(loss, nn.Module):
        raise ConfigError(f"loss {name} is no nn.Module: derive it from torch.nn.Module")
    if not CHECK_OUTPUTS.get():
        return
    logits = torch.empty(2, num_classes, 8, 8, device="meta", requires_grad=True)
    labels = torch.empty(2, 8, 8, dtype=torch.int16, device="meta")
    described = f"logits {list(logits.shape)} and labels {list(labels.shape)}"
    value = meta_outputs(loss, (logits, labels), f"loss {name}", described)
    if value is not READS_VALUES and (not isinstance(value, Tensor) or value.numel() != 1):
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"loss {name} must return a scalar tensor, got {got}")
