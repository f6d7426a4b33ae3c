"""Convolutions with norm and ReLU, towers of such convolutions (as in many heads), and weight initialization."""

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


def xavier_init(module: nn.Module) -> None:
    """Initialize every convolution in `module` as Caffe2's Xavier filler does: uniformly, with variance 1 / fan-in."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def conv_norm_relu(
    in_channels: int,
    channels: int,
    norm: Norm,
    kernel: int = 1,
    dilation: int = 1,
    groups: int = 1,
    init: Callable[[nn.Module], None] | None = he_init,
) -> ConvNorm:
    """A convolution with same padding, followed by a norm and a ReLU.

    Args:
        norm: see `make_norm`; without a norm, the convolution has a bias.
        kernel: kernel size, an odd number.
        init: function that initializes the convolution; None if the head initializes it.

    Returns:
        A module from `[N, in_channels, H, W]` to `[N, channels, H, W]`.
    """
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(
        in_channels, channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=norm is None
    )
    if init is not None:
        init(conv)
    return ConvNorm(conv, make_norm(norm, channels), nn.ReLU(inplace=True))


def conv_tower(
    in_channels: int,
    channels: int,
    convs: int,
    norm: Norm,
    init: Callable[[nn.Module], None] | None = he_init,
    dilation: int = 1,
) -> nn.Sequential:
    """A sequence of `convs` 3 × 3 convolutions with `channels` output channels, each followed by norm and ReLU.

    Args:
        norm, init: see `conv_norm_relu`.

    Returns:
        A module from `[N, in_channels, H, W]` to `[N, channels, H, W]`; the identity if `convs` is 0.
    """
    tower = nn.Sequential()
    for _ in range(convs):
        tower.append(conv_norm_relu(in_channels, channels, norm, kernel=3, dilation=dilation, init=init))
        in_channels = channels
    return tower
