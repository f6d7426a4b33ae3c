"""What makes a backbone of another library's network: its maps by our names and on our grid, frozen as asked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chordate.backbones.staged import recomputed
from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError, unknown

TRIAL = (256, 512)  # pixels, multiples of every stride: the image that a network is tried with


class AdaptedBackbone(Backbone):
    """What both adapters share: `net`, a library's network that gives a list or a dict of maps.

    A subclass ends with `_adopt`. Maps have `ceil(side / stride)` cells a side, as the contract says: where
    convolutions without padding (AlexNet, Inception, SqueezeNet) or pools that round down (VGG) give fewer, the
    outermost are repeated.

    Args of both:
        out: the maps to give; None for the last of stride 4, 8 … each.
        in_channels: of the images. 3-channel weights are adapted when they are loaded.
        frozen_stages: -1 trains everything; 0 freezes all that leads to c1, 1 what leads to c2 … Frozen BatchNorms keep
            their statistics.
        checkpointing: keep nothing of the network but its maps, and compute it again for the backward pass: the
            network's memory and the heads' are then not needed at the same time.
    """

    frozen: tuple[str, ...] = ()  # parts of `net` that stay in evaluation
    channels_last: frozenset[str] = frozenset()  # maps that `net` gives as [N, H, W, C]
    side_multiple: int = 1  # what `net` must have the images' sides padded to

    def __init__(self, name: str, in_channels: int, checkpointing: bool):
        super().__init__()
        self.name, self.in_channels, self.checkpointing = name, in_channels, checkpointing

    def _adopt(
        self,
        offered: Mapping[str, FeatureSpec],
        make: Callable[[Sequence[str]], nn.Module],
        out: Sequence[str] | None,
        frozen_stages: int,
    ) -> None:
        """Take the network that gives the maps `out` of those on offer: `make(names)` builds it."""
        if out is None:
            out = list({spec.stride: name for name, spec in offered.items() if spec.stride >= 4}.values())
        if isinstance(out, str) or not out:
            raise ConfigError(f"{self.name}: out={out!r}; give a list of at least one map")
        for name in out:
            if name not in offered:
                raise ConfigError(unknown(f"map of {self.name}", str(name), offered))
        self.out_features = {name: spec for name, spec in offered.items() if name in out}
        self.net = make(list(self.out_features))
        stages = {int(name[1:]) - 1: name for name in offered}
        if frozen_stages not in (-1, *stages):
            known = ", ".join(f"{stage} (all that leads to {name})" for stage, name in stages.items())
            raise ConfigError(f"{self.name}: frozen_stages={frozen_stages!r}; it is -1 (none), {known}")
        if frozen_stages != -1:
            self._freeze(make, stages[frozen_stages])

    def _freeze(self, make: Callable[[Sequence[str]], nn.Module], last: str) -> None:
        """Take the gradients from every parameter on the way to a map; the meta device tells which these are."""
        with torch.device("meta"):
            leading = make([last])
            (x,) = _maps(leading(torch.empty(2, self.in_channels, *TRIAL)))
            x.sum().backward()
        used = {name for name, parameter in leading.named_parameters() if parameter.grad is not None}
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name not in used)
        whole = []
        for name, part in self.net.named_modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                whole.append(name)
        self.frozen = tuple(whole)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen:
            self.net.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        down, across = (-side % self.side_multiple for side in images.shape[-2:])
        padded = F.pad(images, (0, across, 0, down)) if down or across else images
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        outputs = _maps(recomputed(self.net, padded) if again else self.net(padded))
        maps = {}
        for (name, spec), x in zip(self.out_features.items(), outputs, strict=True):
            if name in self.channels_last:
                x = x.permute(0, 3, 1, 2)
            maps[name] = _on_grid(x, spec.stride, images)
        return maps


def _maps(outputs: Any) -> list[Tensor]:
    return list(outputs.values() if isinstance(outputs, Mapping) else outputs)


def _on_grid(x: Tensor, stride: int, images: Tensor) -> Tensor:
    """Bring a map to `ceil(side / stride)` cells: repeat those at its border, or cut what is too much."""
    rows, columns = (-(-side // stride) for side in images.shape[-2:])
    down, across = max(0, rows - x.shape[2]), max(0, columns - x.shape[3])
    if down or across:
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2), mode="replicate")
    return x[:, :, :rows, :columns]


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
