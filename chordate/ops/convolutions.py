"""Towers of 3 × 3 convolutions, the first layers of many heads, and He initialization."""

from collections.abc import Callable

from torch import nn

from chordate.ops.norms import ConvNorm, Norm, make_norm


def he_init(module: nn.Module) -> None:
    """Initialize every convolution in `module` by equation 14 of He et al. 2015 (Delving Deep into Rectifiers)."""
    for conv in module.modules():
        # Tensors on the meta device have no values to initialize.
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and not conv.weight.is_meta:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def conv_tower(
    in_channels: int,
    channels: int,
    convs: int,
    norm: Norm,
    init: Callable[[nn.Module], None] | None = he_init,
) -> nn.Sequential:
    """A sequence of `convs` 3 × 3 convolutions with `channels` output channels, each followed by norm and ReLU.

    Args:
        norm: see `make_norm`; without a norm, convolutions have a bias.
        init: function that initializes each convolution; None if the head initializes them.

    Returns:
        A module from `[N, in_channels, H, W]` to `[N, channels, H, W]`; the identity if `convs` is 0.
    """
    tower = nn.Sequential()
    for _ in range(convs):
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm is None)
        if init is not None:
            init(conv)
        tower.append(ConvNorm(conv, make_norm(norm, channels), nn.ReLU(inplace=True)))
        in_channels = channels
    return tower
