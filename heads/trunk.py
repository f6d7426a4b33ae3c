"""Trunks: the layers of an RoI head between pooling and the predictor layers."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from chordate.arguments import NonNegativeInt, PositiveInt
from chordate.contracts import Backbone, FeatureSpec
from chordate.ops.convolutions import conv_tower
from chordate.ops.norms import Norm
from chordate.registry import HEADS


@HEADS.register_module()
class ConvFC(nn.Module):
    """3×3 convolutions and then fully connected layers, each followed by ReLU.

    Input `[R, C, S, S]`, output `[R, out_channels]`.

    FPN's box head has two fully connected layers with 1024 channels (Lin et al. 2017, section 4.2);
    Group Normalization's box head has four convolutions and one fully connected layer (Wu & He 2018, section 4.2).

    Args:
        in_channels: C.
        resolution: S.
        convs, conv_channels: number of convolutions, and their number of channels.
        fcs, fc_channels: number of fully connected layers, and their number of channels.
        norm: norm after each convolution, see `make_norm`.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        resolution: PositiveInt,
        convs: NonNegativeInt = 0,
        conv_channels: PositiveInt = 256,
        fcs: NonNegativeInt = 2,
        fc_channels: PositiveInt = 1024,
        norm: Norm = None,
    ):
        super().__init__()
        self.convs = conv_tower(in_channels, conv_channels, convs, norm)
        widths = [(conv_channels if convs else in_channels) * resolution**2] + [fc_channels] * fcs
        self.fcs = nn.ModuleList()
        for before, after in itertools.pairwise(widths):
            fc = nn.Linear(before, after)
            nn.init.kaiming_uniform_(fc.weight, a=1)  # Caffe's Xavier filler, as in Detectron2
            nn.init.zeros_(fc.bias)
            self.fcs.append(fc)
        self.out_channels = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x).flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x), inplace=True)
        return x


@HEADS.register_module()
class StageTrunk(nn.Module):
    """The last stage of a backbone, applied to pooled regions (He et al. 2016, appendix A; Mask R-CNN's C4 layout).

    Input `[R, C, S, S]`, output `[R, out_channels, S / 2, S / 2]`.

    Args:
        stage: the stage, from `Backbone.pop_stage`.
    """

    def __init__(self, stage: Backbone):
        super().__init__()
        self.stage = stage
        spec: FeatureSpec
        ((self.map, spec),) = stage.out_features.items()
        self.out_channels = spec.channels

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(x)[self.map]
