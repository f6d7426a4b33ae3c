"""Trunks: what an RoI head does to a pooled region before it predicts from it."""

from torch import Tensor, nn

from chordate.ops.norms import make_norm
from chordate.registry import HEADS


@HEADS.register_module()
class ConvFC(nn.Sequential):
    """Some 3 x 3 convolutions, then some fully connected layers, each with a ReLU: `[R, C, S, S]` to `[R, out_channels]`.

    Two fully connected layers of 1024 are the box head of FPN (Lin et al. 2017, section 5.2); four
    convolutions and one fully connected layer that of Group Normalization (Wu & He 2018, section 4.2).

    Args:
        in_channels: C.
        resolution: S.
        convs, conv_channels: how many, and how wide.
        fcs, fc_channels: how many, and how wide.
        norm: after each convolution, see `make_norm`.
    """

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        convs: int = 0,
        conv_channels: int = 256,
        fcs: int = 2,
        fc_channels: int = 1024,
        norm: str | dict | None = None,
    ):
        super().__init__()
        channels = in_channels
        for i in range(convs):
            conv = nn.Conv2d(channels, conv_channels, 3, padding=1, bias=norm is None)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.append(nn.Sequential(conv, make_norm(norm, conv_channels), nn.ReLU(inplace=True)))
            channels = conv_channels
        self.append(nn.Flatten())
        channels *= resolution**2
        for i in range(fcs):
            fc = nn.Linear(channels, fc_channels)
            nn.init.kaiming_uniform_(fc.weight, a=1)  # Caffe's Xavier filler, as in Detectron2
            nn.init.zeros_(fc.bias)
            self.append(nn.Sequential(fc, nn.ReLU(inplace=True)))
            channels = fc_channels
        self.out_channels = channels
