"""Chordate's backbones in torchvision's detectors and segmenters, which take any module with the right outputs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from chordate.contracts import check_outputs, offered, select
from chordate.errors import ConfigError
from chordate.models.build import build_backbone
from chordate.registry import NECKS


class PyramidBackbone(nn.Module):
    """Backbone and neck for torchvision's detectors: `FasterRCNN(PyramidBackbone("resnet50"), num_classes=91)`.

    Feature maps are named "0", "1", … from fine to coarse, as the detectors expect. FasterRCNN, MaskRCNN and
    KeypointRCNN pool from "0" … "3" and have anchors for the five maps of the default neck, p2 … p6. RetinaNet and
    FCOS have anchors for p3 … p7: `neck=dict(type="FPN", inputs=["c3", "c4", "c5"], extra="c5")`. Torchvision
    normalizes RGB images with ImageNet's mean and std, and pads them to multiples of 32 pixels.

    Args:
        backbone: a name or a dict with `type`, see `build_backbone`.
        neck: a name or a dict with `type`; all its feature maps must have the same number of channels.
        pretrained: the backbone's weights, see `build_backbone`.
        options: further arguments of the backbone, such as `frozen_stages=1`.

    Attributes:
        out_channels: number of channels of every feature map.

    Raises:
        ConfigError: backbone and neck do not fit together, or the numbers of channels differ.
        CheckpointError: the weights cannot be read or do not fit.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any],
        neck: str | Mapping[str, Any] = "FPN",
        *,
        pretrained: str | bool | None = None,
        **options: Any,
    ):
        super().__init__()
        self.backbone = build_backbone(backbone, pretrained=pretrained, **options)
        self.backbone.train()
        self.neck = NECKS.build(neck, in_features=offered(self.backbone))
        check_outputs(self.backbone, neck=self.neck)
        channels = {spec.channels for spec in self.neck.out_features.values()}
        if len(channels) > 1:
            message = "torchvision's detectors need feature maps with the same number of channels"
            raise ConfigError(f"{message}; {offered(self.neck)}")
        (self.out_channels,) = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.neck(self.backbone(images))
        return {str(number): x for number, x in enumerate(maps.values())}


class NamedFeatures(nn.Module):
    """A backbone for DeepLabV3, FCN and LRASPP, whose feature maps have the names that these models expect.

    `NamedFeatures("resnet50", {"out": "c5", "aux": "c4"}, output_stride=8)`; LRASPP reads "low" and "high".

    Args:
        backbone: a name or a dict with `type`, see `build_backbone`.
        maps: mapping from torchvision's names of the feature maps to ours.
        pretrained: the backbone's weights, see `build_backbone`.
        options: further arguments of the backbone, such as `output_stride=8`.

    Attributes:
        out_channels: mapping from torchvision's names to numbers of channels, for the classifiers' constructors.

    Raises:
        ConfigError: the backbone does not have one of the feature maps.
        CheckpointError: the weights cannot be read or do not fit.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any],
        maps: Mapping[str, str],
        *,
        pretrained: str | bool | None = None,
        **options: Any,
    ):
        super().__init__()
        self.backbone = build_backbone(backbone, pretrained=pretrained, **options)
        self.backbone.train()
        specs = select(offered(self.backbone), maps.values(), "torchvision's segmenter")
        self.maps = dict(maps)
        self.out_channels = {name: specs[ours].channels for name, ours in maps.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {name: features[ours] for name, ours in self.maps.items()}
