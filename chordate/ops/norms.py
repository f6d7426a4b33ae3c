"""The normalisation layers that configs name: "BN", "SyncBN", "FrozenBN", "GN"."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.errors import ConfigError, unknown


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics and affine part are constants, `[N, C, H, W]` to the same.

    What detectors put in place of BatchNorm while fine-tuning with few images a device. It has no
    parameters: `weight`, `bias`, `running_mean` and `running_var` (`[C]` each) are buffers named as
    `nn.BatchNorm2d` names them, so a BatchNorm's state dict loads.

    Args:
        channels: C.
        eps: added to the variance. 1e-5 as in BatchNorm and Detectron2; torchvision's first COCO
            detectors were trained with 0.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def folded(self) -> tuple[Tensor, Tensor]:
        """The layer as `x * scale + shift`, both `[C]`."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:  # one pass over memory
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # A product with a constant keeps no activation for the backward pass, which batch_norm does.
        scale, shift = self.folded()
        return (x * scale.to(x.dtype)[:, None, None]).add_(shift.to(x.dtype)[:, None, None])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # a counter of BatchNorm's own
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def _group_norm(channels: int, groups: int = 32, eps: float = 1e-5) -> nn.GroupNorm:
    """32 groups, the best of table 3 in Wu & He 2018 (Group Normalization)."""
    return nn.GroupNorm(groups, channels, eps=eps)


NORMS: dict[str, Any] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm,
    "GN": _group_norm,
}


def make_norm(norm: str | Mapping[str, Any] | None, channels: int) -> nn.Module:
    """A normalisation layer for `[N, channels, H, W]`.

    Args:
        norm: "BN", "SyncBN", "FrozenBN" or "GN"; a dict with that as `type` and the layer's arguments
            (`dict(type="FrozenBN", eps=0.0)`, `dict(type="GN", groups=16)`); None for no norm.
        channels: C.

    Raises:
        ConfigError: an unknown norm, or arguments that it rejects.
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
        raise ConfigError(f"norm {kind} for {channels} channels: {error}") from error
