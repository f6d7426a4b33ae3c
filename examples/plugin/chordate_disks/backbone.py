"""PatchNet: a patch embedding, and stages that halve the resolution."""

from torch import Tensor, nn

from chordate import BACKBONES, Backbone, FeatureSpec
from chordate.arguments import PositiveInt


@BACKBONES.register_module()
class PatchNet(Backbone):
    """Computes c2, c3 and c4 (strides 4, 8 and 16) from images `[N, 3, H, W]`.

    Args:
        width: number of channels of c2, a multiple of 8; each further stage doubles the number.
    """

    def __init__(self, width: PositiveInt = 32):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, out, kernel, stride, 1), nn.GroupNorm(8, out), nn.GELU())
            for channels, out, kernel, stride in (
                (3, width, 5, 4),
                (width, 2 * width, 3, 2),
                (2 * width, 4 * width, 3, 2),
            )
        )
        self.out_features = {f"c{i}": FeatureSpec(width * 2 ** (i - 2), 2**i) for i in (2, 3, 4)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name, stage in zip(self.out_features, self.stages):
            images = maps[name] = stage(images)
        return maps


BACKBONES.register_variants({"patchnet_tiny": {"type": "PatchNet", "width": 16}})
