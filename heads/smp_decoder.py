"""Decoders of segmentation_models.pytorch (smp) as heads: U-Net, U-Net++, FPN, PSPNet, DeepLab v3, v3+ and others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chordate.arguments import PositiveInt
from chordate.contracts import FeatureSpec, select
from chordate.errors import ConfigError
from chordate.head_contracts import ClassRows
from chordate.heads.semantic_head import Losses, SemanticHead
from chordate.libraries import import_smp
from chordate.registry import HEADS


@HEADS.register_module()
class SmpDecoder(SemanticHead):
    """The decoder and segmentation head of an smp network, applied to the feature maps of a backbone such as a ResNet.

    The logits equal smp's with the same weights. Images must be padded to multiples of the backbone's largest stride
    (`size_divisor`).

    Args:
        in_features: specs of the available feature maps, which must include c1 … c5 (or fewer, if `options` sets a
            smaller encoder_depth).
        num_classes: number of classes.
        architecture: smp's name of the network, such as "unet" or "deeplabv3plus".
        encoder: smp's name of an encoder with the same channels as the backbone, such as "resnet34".
        options: further arguments of smp's network, such as `decoder_channels`.
        losses: see `SemanticHead`.

    Raises:
        ConfigError: smp is not installed or does not have the architecture or the encoder, or the backbone lacks one of
            the feature maps or has other channels than the encoder.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_classes: PositiveInt,
        architecture: str,
        encoder: str = "resnet34",
        options: dict[str, Any] | None = None,
        losses: Losses | None = None,
    ):
        smp = import_smp("SmpDecoder", architecture, encoder)
        settings = {"encoder_weights": None, "classes": num_classes, **(options or {})}
        theirs = smp.create_model(architecture, encoder, **settings)
        channels = list(theirs.encoder.out_channels)[1:]
        super().__init__(theirs.segmentation_head[0].in_channels, num_classes, losses=losses)
        self.levels = [f"c{number}" for number in range(1, len(channels) + 1)]
        specs = select(in_features, self.levels, "SmpDecoder")
        if [spec.channels for spec in specs.values()] != channels:
            raise ConfigError(
                f"SmpDecoder: encoder={encoder} has {channels} channels, but the backbone's {', '.join(specs)} have "
                f"{[spec.channels for spec in specs.values()]}; set encoder to one with the backbone's channels"
            )
        self.stride = specs[self.levels[0]].stride
        self.decoder: nn.Module = theirs.decoder
        self.logits = theirs.segmentation_head  # replaces the 1×1 convolution of SemanticHead
        self.class_rows = {"logits.0": ClassRows()}

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        levels = [maps[name] for name in self.levels]
        finest = levels[0]
        height, width = (side * self.stride for side in finest.shape[-2:])
        image = torch.empty(len(finest), 0, height, width, dtype=finest.dtype, device=finest.device)
        features: Tensor = self.decoder([image, *levels])  # the decoder reads only the size of `image`
        return features
