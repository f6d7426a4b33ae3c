"""The contracts of heads that predict per pixel (classes, instance centers, keypoint heatmaps), and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chordate.contracts import CHECK_OUTPUTS, READS_VALUES, FeatureSpec, meta_outputs
from chordate.errors import ConfigError, TrainingError
from chordate.model_contracts import total_loss
from chordate.structures import InstanceTargets, PanopticTargets
from chordate.structures.detection import BITMAP_SIZE


class PixelHead(Protocol):
    """The contract of a head that predicts a class per pixel.

    The model passes two kinds of arguments to the constructor: `in_features` (FeatureSpecs of the available feature
    maps), and the values of `DatasetMeta.facts()`, such as `num_classes`, that the constructor has parameters for.
    """

    def __call__(self, maps: dict[str, Tensor]) -> Tensor:
        """Predict logits `[N, num_classes, h, w]` from feature maps `[N, C, H, W]` keyed by name."""

    def loss(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Scalar losses keyed by name, from labels `[N, H, W]` int16; pixels with the label `IGNORED` do not
        contribute."""


class WeightedPixelHead(PixelHead, Protocol):
    """The contract of a PixelHead whose loss can weight the pixels."""

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """As in `PixelHead`; `weights` `[N, H, W]`, if not None, multiply the losses of the pixels."""


class CenterHead(Protocol):
    """The contract of a head that predicts the centers of instances, and each pixel's offset to its instance's center.

    The model passes two kinds of arguments to the constructor: `in_features` (FeatureSpecs of the available feature
    maps), and the values of `DatasetMeta.facts()`, such as `num_classes`, that the constructor has parameters for.
    """

    def __call__(self, maps: dict[str, Tensor]) -> Any:
        """Compute the outputs (of any type) for `resize` and `loss`, from feature maps `[N, C, H, W]` keyed by name."""

    def resize(self, outputs: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Resize the outputs to images of `size` (height, width): center heatmap `[N, H, W]`, and offsets
        `[N, 2, H, W]` (y, x) in pixels."""

    def loss(self, outputs: Any, targets: PanopticTargets) -> dict[str, Tensor]:
        """Scalar losses keyed by name."""


class HeatmapHead(Protocol):
    """The contract of a head that predicts one heatmap per keypoint.

    The model passes two kinds of arguments to the constructor: `in_features` (FeatureSpecs of the available feature
    maps), and the values of `DatasetMeta.facts()`, such as `num_keypoints`, that the constructor has parameters for.
    """

    def __call__(self, maps: dict[str, Tensor]) -> Tensor:
        """Predict heatmaps `[N, num_keypoints, h, w]` from feature maps `[N, C, H, W]` keyed by name."""

    def loss(self, heatmaps: Tensor, keypoints: Tensor) -> dict[str, Tensor]:
        """Scalar losses keyed by name; `keypoints` `[N, num_keypoints, 3]` are x, y in pixels of the batch, and
        visibility."""

    def decode(self, heatmaps: Tensor) -> Tensor:
        """Keypoints `[N, num_keypoints, 3]`: x, y in pixels of the batch, and confidence."""


class _Method(nn.Module):
    """Wraps a function of a head, such as a method call, as a module that `meta_outputs` can run."""

    def __init__(self, head: nn.Module, function: Callable[..., Any]):
        super().__init__()
        self.head, self.function = head, function

    def forward(self, *inputs: Any) -> Any:
        return self.function(self.head, *inputs)


@torch.inference_mode(False)  # a model may be built in inference mode, which has no gradients
@torch.enable_grad()
def check_pixel_head(
    head: Any, in_features: Mapping[str, FeatureSpec], num_classes: int, weighted: bool = False
) -> None:
    """Check the logits and losses of a PixelHead for two images on the meta device (which computes only shapes).

    Skipped if the head is not an nn.Module, or reads values, which meta tensors do not have. With `weighted`, `loss`
    receives weights of the pixels, as in `WeightedPixelHead`.

    Raises:
        ConfigError: the head fails, its logits are not `[N, num_classes, h, w]`, or `loss` does not return a dict of
            scalars with a gradient.
    """
    if not CHECK_OUTPUTS.get() or not isinstance(head, nn.Module):
        return
    logits = _predicted(head, in_features, "logits", num_classes)
    if logits is None:
        return
    side = _side(in_features)
    labels = torch.empty(2, side, side, dtype=torch.int16, device="meta")
    inputs = [logits, labels, *([labels.float()] if weighted else [])]
    described = f"logits {list(logits.shape)} and labels {list(labels.shape)}"
    _check_loss(head, inputs, described + (" and weights of this shape" if weighted else ""), "the logits")


@torch.inference_mode(False)
@torch.enable_grad()
def check_heatmap_head(head: Any, in_features: Mapping[str, FeatureSpec], num_keypoints: int) -> None:
    """Check the heatmaps, losses and decoded keypoints of a HeatmapHead, as `check_pixel_head` does.

    Raises:
        ConfigError: the head fails, its heatmaps are not `[N, num_keypoints, h, w]`, `decode` does not return
            `[N, num_keypoints, 3]`, or `loss` does not return a dict of scalars with a gradient.
    """
    if not CHECK_OUTPUTS.get() or not isinstance(head, nn.Module):
        return
    heatmaps = _predicted(head, in_features, "heatmaps", num_keypoints)
    if heatmaps is None:
        return
    name, got = type(head).__name__, f"heatmaps {list(heatmaps.shape)}"
    points = meta_outputs(_Method(head, lambda h, x: h.decode(x)), (heatmaps.detach(),), f"{name}.decode", got)
    if points is not READS_VALUES and _shape(points) != [2, num_keypoints, 3]:
        raise ConfigError(
            f"{name}.decode must return keypoints [2, {num_keypoints}, 3] for {got}, got {_shape(points)}"
        )
    keypoints = torch.empty(2, num_keypoints, 3, device="meta")
    _check_loss(head, [heatmaps, keypoints], f"{got} and keypoints {list(keypoints.shape)}", "the heatmaps")


@torch.inference_mode(False)
@torch.enable_grad()
def check_center_head(head: Any, in_features: Mapping[str, FeatureSpec]) -> None:
    """Check the resized outputs and the losses of a CenterHead, as `check_pixel_head` does.

    Raises:
        ConfigError: the head fails, `resize` does not return a heatmap `[N, H, W]` and offsets `[N, 2, H, W]`, or
            `loss` does not return a dict of scalars with a gradient.
    """
    if not CHECK_OUTPUTS.get() or not isinstance(head, nn.Module):
        return
    name, maps, side = type(head).__name__, _maps(in_features), _side(in_features)
    resized = meta_outputs(
        _Method(head, lambda h, x: h.resize(h(x), (side, side))), (maps,), name, f"feature maps {', '.join(maps)}"
    )
    if resized is READS_VALUES:
        return
    shapes = [_shape(x) for x in resized] if isinstance(resized, tuple | list) else _shape(resized)
    if shapes != [[2, side, side], [2, 2, side, side]]:
        raise ConfigError(
            f"{name}.resize must return a heatmap [2, {side}, {side}] and offsets [2, 2, {side}, {side}] for 2 images "
            f"of {side}×{side} px, got {shapes}"
        )
    flags = torch.empty(2, 1, dtype=torch.bool, device="meta")
    masks = torch.empty(2, 1, BITMAP_SIZE, BITMAP_SIZE, dtype=torch.uint8, device="meta")
    instances = InstanceTargets(torch.empty(2, 1, 4, device="meta"), flags.long(), flags, flags, masks)
    labels = torch.empty(2, side, side, dtype=torch.int16, device="meta")
    targets = PanopticTargets(instances, labels, labels)
    _check_loss(
        head,
        [maps, targets],
        f"its outputs and labels {list(labels.shape)}",
        "the outputs",
        lambda h, x, truth: h.loss(h(x), truth),
    )


def _side(in_features: Mapping[str, FeatureSpec]) -> int:
    """The height and width in pixels of the images that the checks use."""
    return 2 * math.lcm(64, *(spec.stride for spec in in_features.values()))


def _maps(in_features: Mapping[str, FeatureSpec]) -> dict[str, Tensor]:
    """Feature maps of two images, on the meta device."""
    side = _side(in_features)
    shapes = {key: (2, spec.channels, side // spec.stride, side // spec.stride) for key, spec in in_features.items()}
    return {key: torch.empty(shape, device="meta", requires_grad=True) for key, shape in shapes.items()}


def _shape(value: Any) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _predicted(head: nn.Module, in_features: Mapping[str, FeatureSpec], kind: str, channels: int) -> Tensor | None:
    """The output `[2, channels, h, w]` of a head for two images, as a leaf that requires a gradient; None if the
    head reads values."""
    name = type(head).__name__
    with torch.no_grad():
        output = meta_outputs(head, (_maps(in_features),), name, f"feature maps {', '.join(in_features)}")
    if output is READS_VALUES:
        return None
    got = _shape(output)
    if len(got) != 4 or got[:2] != [2, channels] or not output.is_floating_point():
        raise ConfigError(f"{name}: forward must return float {kind} [2, {channels}, h, w] for 2 images, got {got}")
    result: Tensor = output.detach().requires_grad_()
    return result


def _check_loss(
    head: nn.Module,
    inputs: Sequence[Any],
    described: str,
    source: str,
    function: Callable[..., Any] = lambda head, *inputs: head.loss(*inputs),
) -> None:
    """Check that the losses of a head are a dict of scalars with a gradient.

    Args:
        inputs: arguments of `function` after the head.
        described: description of the inputs of `loss`, for the message.
        source: names of the tensors that the losses must be computed from, for the message.
        function: function that computes the losses.
    """
    name = type(head).__name__
    losses = meta_outputs(_Method(head, function), tuple(inputs), f"{name}.loss", described)
    if losses is READS_VALUES:
        return
    try:
        total = total_loss(losses, source=f"{name}.loss")
    except TrainingError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(name) else f"{name}: {message}") from error
    if not total.requires_grad:
        raise ConfigError(
            f"{name}.loss: no loss has a gradient; compute the losses from {source} without detach or no_grad"
        )


@torch.inference_mode(False)
@torch.enable_grad()
def check_pixel_loss(loss: Any, num_classes: int) -> None:
    """Check that a loss of logits `[N, num_classes, H, W]` and labels `[N, H, W]` is a module that returns a scalar.

    Skipped if the loss reads values, which meta tensors do not have.

    Raises:
        ConfigError: the loss is not an nn.Module, fails, or does not return a scalar tensor.
    """
    name = type(loss).__name__
    if not isinstance(loss, nn.Module):
        raise ConfigError(f"loss {name} is not an nn.Module: derive it from torch.nn.Module")
    if not CHECK_OUTPUTS.get():
        return
    logits = torch.empty(2, num_classes, 8, 8, device="meta", requires_grad=True)
    labels = torch.empty(2, 8, 8, dtype=torch.int16, device="meta")
    described = f"logits {list(logits.shape)} and labels {list(labels.shape)}"
    value = meta_outputs(loss, (logits, labels), f"loss {name}", described)
    if value is not READS_VALUES and (not isinstance(value, Tensor) or value.numel() != 1):
        raise ConfigError(f"loss {name} must return a scalar tensor, got {_shape(value)}")
