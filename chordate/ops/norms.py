"""Builds normalization layers ("BN", "SyncBN", "FrozenBN", "GN" in configs), and folds them into convolutions."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.errors import ConfigError, unknown

Norm = str | Mapping[str, Any] | None  # a norm in a config, see `make_norm`


class FrozenBatchNorm(nn.Module):
    """Batch normalization with constant statistics and affine parameters; input and output `[N, C, H, W]`.

    Replaces BatchNorm when detectors are fine-tuned with few images per device. By default it has no parameters:
    `weight`, `bias`, `running_mean` and `running_var` (`[C]` each) are buffers with the names of `nn.BatchNorm2d`, so
    the state dict of a BatchNorm loads. After a convolution, it is folded into the convolution, see `conv_norm`.

    Args:
        channels: C.
        eps: added to the variance. 1e-5 as in BatchNorm and Detectron2; torchvision's first COCO detectors were
            trained with 0.
        trainable: whether `weight` and `bias` are parameters, so that only the statistics are constant, as in
            MMDetection with `norm_eval=True`.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, trainable: bool = False):
        super().__init__()
        self.eps = eps
        for name, value in (("weight", torch.ones(channels)), ("bias", torch.zeros(channels))):
            if trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad and self.eps > 0:  # batch_norm makes one pass over memory, but requires eps > 0
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # Unlike batch_norm, multiplication by a constant does not save its input for the backward pass.
        scale, shift = _scale_and_shift(self)
        return (x * scale.to(x.dtype)[:, None, None]).add_(shift.to(x.dtype)[:, None, None])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # BatchNorm's step counter, which is not needed
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def _group_norm(channels: int, groups: int = 32, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm, by default with 32 groups, the best number in table 3 of Wu & He 2018 (Group Normalization)."""
    return nn.GroupNorm(groups, channels, eps=eps)


NORMS: dict[str, Any] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm,
    "GN": _group_norm,
}
FOLDABLE = (FrozenBatchNorm, nn.BatchNorm2d, nn.SyncBatchNorm)  # no subclasses, which may compute something else
PAIRED = (*FOLDABLE, nn.GroupNorm)  # norms that `run_layers` passes to `conv_norm`


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Build a normalization layer for `[N, channels, H, W]`.

    Args:
        norm: "BN", "SyncBN", "FrozenBN" or "GN"; a dict with such a `type` and the layer's arguments
            (`dict(type="FrozenBN", eps=0.0)`, `dict(type="GN", groups=16)`); None for no norm (`nn.Identity`).
        channels: number of channels.

    Raises:
        ConfigError: the norm is unknown or rejects the arguments.
    """
    if norm is None:
        return nn.Identity()
    arguments = dict(norm) if isinstance(norm, Mapping) else {"type": norm}
    kind = arguments.pop("type", None)
    if kind not in NORMS:
        raise ConfigError(unknown("norm", str(kind), NORMS))
    try:
        return NORMS[kind](channels, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"norm {kind} cannot be built for {channels} channels: {error}") from error


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """Compute `norm(conv(x))`, as one convolution with scaled weights if the norm only scales by `s` and shifts by `t`.

    This is the case for FrozenBatchNorm, and for BatchNorm and SyncBatchNorm in eval mode. Gradients of all parameters
    are exact. Other norms, and modules with hooks, are not folded. Nothing is cached: each call computes `s` and `t`
    from the norm, so threads share no state. Folding replaces a pass over the feature map by a pass over the
    weights, so it saves no time for small feature maps.

    A feature map with one value per channel, as after global pooling of a single image, raises no error: BatchNorm in
    training uses its running statistics, and GroupNorm normalizes each group as it does in a larger batch.

    Args:
        conv: a convolution from `[N, C_in, H, W]` to `[N, C, H', W']`, or a ConvNorm that ends with a convolution.
        norm: a norm of C channels, or any other module, which is applied unchanged.
        x: `[N, C_in, H, W]`.
    """
    if type(conv) is ConvNorm and not _has_hooks(conv):
        *before, conv = conv
        x = run_layers(before, x)
    batch_norm = isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
    depends_on_batch = batch_norm and (norm.training or norm.running_mean is None)
    if type(conv) is not nn.Conv2d or type(norm) not in FOLDABLE or depends_on_batch or _has_hooks(conv, norm):
        y = conv(x)
        if y.numel() == y.shape[1]:  # torch.nn.functional raises an error, because one value has no variance
            if type(norm) is nn.BatchNorm2d and depends_on_batch:
                return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            if type(norm) is nn.GroupNorm:
                return torch.group_norm(y, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return norm(y)
    scale, shift = _scale_and_shift(norm)
    weight = (conv.weight * scale[:, None, None, None]).to(conv.weight.dtype)
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    shift = shift.to(weight.dtype)
    # cuDNN adds the shift in a separate pass over the feature map; a matrix product adds it in the same pass. Float32
    # keeps the convolution: by default, convolutions use TF32, but matrix products do not.
    pointwise = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    if pointwise and x.is_cuda and x.dtype.itemsize == 2 and x.is_contiguous(memory_format=torch.channels_last):
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), shift).permute(0, 3, 1, 2)
    return conv._conv_forward(x, weight, shift)


def run_layers(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply layers in order; a norm directly after a convolution is applied by `conv_norm`."""
    remaining = list(layers)
    while remaining:
        layer = remaining.pop(0)
        paired = isinstance(layer, nn.Conv2d | ConvNorm) and remaining and type(remaining[0]) in PAIRED
        x = conv_norm(layer, remaining.pop(0), x) if paired else layer(x)
    return x


class ConvNorm(nn.Sequential):
    """`nn.Sequential(conv, norm, …)` that folds norms into the convolutions before them, see `conv_norm`.

    The state dict has the same names as an `nn.Sequential`: "0", "1", …
    """

    def forward(self, x: Tensor) -> Tensor:
        return run_layers(self, x)


def _has_hooks(*modules: nn.Module) -> bool:
    return any(
        len(hooks) > 0
        for m in modules
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    )


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """`scale` and `shift` `[C]` with which a BatchNorm in eval mode computes `x * scale + shift`."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift
