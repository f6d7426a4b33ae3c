"""Head of Simple Baselines (Xiao et al. 2018, section 3): deconvolutions, and one heatmap per keypoint."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from chordate.arguments import NonNegativeInt, PositiveFloat, PositiveInt
from chordate.contracts import FeatureSpec, select
from chordate.errors import ConfigError
from chordate.head_contracts import ClassRows
from chordate.ops.boxes import at_least_float32
from chordate.ops.gaussian_heatmaps import decode_dark, decode_quarter, gaussian_heatmaps
from chordate.ops.norms import Norm, make_norm
from chordate.registry import HEADS

INIT_STD = 0.001  # standard deviation of the initial weights of all convolutions, from the authors' code


@HEADS.register_module()
class DeconvHead(nn.Module):
    """4×4 deconvolutions with stride 2, each followed by norm and ReLU, and a 1×1 convolution that predicts heatmaps.

    Args:
        in_features: specs of the available feature maps.
        num_keypoints: number of keypoints.
        level: name of the input feature map; None for the coarsest.
        deconvs, channels: number of deconvolutions, and their number of channels; each deconvolution halves the stride.
        norm: norm after each deconvolution, see `make_norm`.
        sigma: standard deviation of the target Gaussians in heatmap cells; the authors use 2, or 3 at 384×288 px.
        decoder: how keypoints are decoded from heatmaps: "quarter" (`decode_quarter`, as in the paper), or "dark"
            (`decode_dark`, Zhang et al. 2020), which is more precise.
        aligned: whether the center of the first cell is half a stride from the image border, so that flipped images
            have flipped heatmaps. False for half a pixel, as in the authors' code and weights.

    Raises:
        ConfigError: the feature map does not exist, or its stride cannot be halved `deconvs` times.
    """

    def __init__(
        self,
        in_features: Mapping[str, FeatureSpec],
        num_keypoints: PositiveInt,
        level: str | None = None,
        deconvs: NonNegativeInt = 3,
        channels: PositiveInt = 256,
        norm: Norm = "BN",
        sigma: PositiveFloat = 2.0,
        decoder: Literal["quarter", "dark"] = "quarter",
        aligned: bool = True,
    ):
        super().__init__()
        self.level = level or list(in_features)[-1]
        ((_, spec),) = select(in_features, [self.level], "DeconvHead").items()
        if spec.stride % 2**deconvs:
            raise ConfigError(
                f"DeconvHead: deconvs must be ≤ {spec.stride.bit_length() - 1} for {self.level} of stride "
                f"{spec.stride}, got {deconvs}; each halves the stride"
            )
        self.stride = spec.stride // 2**deconvs
        self.sigma, self.decoder = sigma, decoder
        self.aligned = aligned
        self.offset = self.stride / 2 if aligned else 0.5  # position of the first cell's center, in pixels
        self.deconvs = nn.Sequential()
        width = spec.channels
        for _ in range(deconvs):
            deconv = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, bias=norm is None)
            self.deconvs.extend([deconv, make_norm(norm, channels), nn.ReLU(inplace=True)])
            width = channels
        self.heatmaps = nn.Conv2d(width, num_keypoints, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.class_rows = {"heatmaps": ClassRows(names="keypoints")}

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Predict heatmaps `[N, num_keypoints, h, w]`, at least float32, from feature maps keyed by name."""
        return at_least_float32(self.heatmaps(self.deconvs(maps[self.level])))

    def loss(self, heatmaps: Tensor, keypoints: Tensor) -> dict[str, Tensor]:
        """Compute half the mean squared error over all cells; unlabeled keypoints have an error of 0 (authors' code).

        Args:
            heatmaps: `[N, num_keypoints, h, w]`.
            keypoints: `[N, num_keypoints, 3]`, x and y in pixels of the batch, and visibility.
        """
        positions = (keypoints[..., :2].to(heatmaps.dtype) - self.offset) / self.stride
        targets = gaussian_heatmaps(positions, (heatmaps.shape[-2], heatmaps.shape[-1]), self.sigma)
        labeled = (keypoints[..., 2] > 0)[..., None, None]
        return {"heatmap": 0.5 * torch.where(labeled, (heatmaps - targets) ** 2, 0.0).mean()}

    def decode(self, heatmaps: Tensor) -> Tensor:
        """Decode heatmaps to keypoints `[N, num_keypoints, 3]`: x and y in pixels of the batch, and confidence."""
        found = decode_dark(heatmaps, self.sigma) if self.decoder == "dark" else decode_quarter(heatmaps)
        return torch.cat((found[..., :2] * self.stride + self.offset, found[..., 2:]), -1)
