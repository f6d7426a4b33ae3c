"""Chordate's backbones in MMDetection, MMSegmentation and MMPretrain: `backbone=dict(type="chordate.resnet50")`.

Their configs import this module with `custom_imports = dict(imports=["chordate.integrations.mmengine"])`.
"""

from functools import partial
from typing import Any

from mmengine.registry import MODELS, Registry
from torch import Tensor, nn

from chordate.contracts import check_outputs
from chordate.registry import BACKBONES
from chordate.weights.loading import load_pretrained


class TupleBackbone(nn.Module):
    """A Chordate backbone for OpenMMLab's libraries: `forward` returns a tuple of feature maps, from fine to coarse.

    Args:
        settings: the backbone's config, for example `type="resnet50", out=["c3", "c4", "c5"], pretrained=True`. Set
            `in_channels` of the model's neck or head to the numbers of channels in `backbone.out_features`.

    Raises:
        ConfigError: a setting is unknown or invalid.
    """

    def __init__(self, **settings: Any):
        super().__init__()
        self.backbone = BACKBONES.build(settings)
        check_outputs(self.backbone)

    def init_weights(self) -> None:
        """Load the weights of the setting `pretrained`; mmengine's runner calls this before it trains."""
        load_pretrained(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(images).values())


class _Backbones(Registry):
    """A child of mmengine's root registry; it looks up types and variants in Chordate's BACKBONES."""

    def get(self, key: str) -> Any:
        BACKBONES.expand(key)  # raises an error that suggests similar names if there is no such backbone
        return partial(TupleBackbone, type=key)


_Backbones("chordate backbone", scope="chordate", parent=MODELS)
