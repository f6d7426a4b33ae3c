"""Chordate's backbones as encoders of segmentation_models.pytorch: importing this module registers them.

Their names are `chordate_<backbone>`, for example `chordate_resnet50`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders._base import EncoderMixin
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn

from chordate.errors import ConfigError
from chordate.integrations.backbone_names import backbone_names
from chordate.registry import BACKBONES, settings_of
from chordate.weights.loading import load_checkpoint


class ChordateEncoder(nn.Module, EncoderMixin):
    """A Chordate backbone with the contract of smp's encoders.

    Feature k has the stride 2^k (not more than `output_stride`); feature 0 is the image. Backbones without c1, such as
    ConvNeXt, have a feature 1 with no channels, like smp's `tu-convnext_tiny`.

    Args:
        backbone: name of a variant or type, or a dict with `type`.
        depth: number of feature maps, 1 … 5.
        output_stride: stride of the coarsest feature map: 32, 16 or 8.

    Raises:
        ConfigError: the strides of c1, c2, … are not 2, 4, …, the backbone has no feature map c`depth`, or it cannot be
            dilated.
    """

    def __init__(self, backbone: str | Mapping[str, Any], depth: int = 5, output_stride: int = 32):
        super().__init__()
        config: dict[str, Any] = {"type": backbone} if isinstance(backbone, str) else dict(backbone)
        if output_stride != 32:
            config["output_stride"] = output_stride
        with torch.device("meta"):
            known = BACKBONES.build(config | {"out": "all"}).out_features
        for name, spec in known.items():
            stride = min(2 ** int(name[1:]), output_stride)
            if spec.stride != stride:
                raise ConfigError(f"smp's encoders need stride {stride} for {name}; {backbone} has {spec.stride} there")
        if f"c{depth}" not in known:
            depths = ", ".join(name[1:] for name in known)
            raise ConfigError(f"{backbone} has no feature map c{depth}; set encoder_depth to one of {depths}")
        channels = {int(name[1:]): spec.channels for name, spec in known.items()}
        self.backbone = BACKBONES.build(config | {"out": [name for name in known if int(name[1:]) <= depth]})
        self._depth, self._in_channels, self._output_stride = depth, 3, output_stride
        self._out_channels = [3, *(channels.get(number, 0) for number in range(1, depth + 1))]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, features = self.backbone(images), [images]
        for number in range(1, self._depth + 1):
            x = maps.get(f"c{number}")
            if x is None:
                height, width = (side // 2**number for side in images.shape[-2:])
                x = images.new_empty(len(images), 0, height, width)
            features.append(x)
        return features

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Replace the first convolution by one for images with `in_channels` channels."""
        super().set_in_channels(in_channels, pretrained)
        self.backbone.in_channels = in_channels

    def make_dilated(self, output_stride: int) -> None:
        """Does nothing: the constructor has built the backbone with its `output_stride`."""

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Load the encoder's own state dict, or weights of any format that `load_checkpoint` knows.

        smp calls this with its published weights (of `resnet50` and others), whose tensors have torchvision's names.
        """
        if not any(name.startswith("backbone.") for name in state_dict):
            load_checkpoint(self.backbone, state_dict)
            state_dict = self.state_dict()
        return super().load_state_dict(state_dict, *args, **options)


def register_encoders() -> None:
    """Register the backbones as `chordate_<name>` in smp's encoders.

    CIFAR's backbones, which have other strides, and backbones without the argument `out` are left out.

    Call it again to add backbones that were registered after the import of this module. If smp has a ResNet of the
    same name, its weights can be loaded: `encoder_weights="imagenet"` for `chordate_resnet50`.
    """
    for name in backbone_names():
        if not name.endswith("_cifar") and "out" in (settings_of(name) or ()):
            smps = encoders.get(name, {})
            weights = smps["pretrained_settings"] if smps.get("encoder") is ResNetEncoder else {}
            entry = {"encoder": ChordateEncoder, "pretrained_settings": weights, "params": {"backbone": name}}
            encoders[f"chordate_{name}"] = entry


register_encoders()
