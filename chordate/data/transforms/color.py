"""Color augmentation: photometric distortion for segmentation; PCA lighting noise and random erasing for ImageNet."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, wrap

from chordate.arguments import Fraction, NonNegativeFloat, PositiveFloat
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.registry import TRANSFORMS

# PCA of the RGB values (0 … 1) of ImageNet's training images, from fb.resnet.torch; eigenvectors are columns.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@TRANSFORMS.register_module()
class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Change brightness, contrast, saturation and hue at random, as MMSegmentation does (there PhotoMetricDistortion).

    Unlike v2's RandomPhotometricDistort, which is for detectors (Liu et al. 2016, SSD), it never permutes the color
    channels. Brightness is multiplied by a factor, whereas MMSegmentation adds up to ±32 (of 255).

    Args:
        brightness, contrast, saturation: smallest and largest factor.
        hue: smallest and largest shift, as fractions of the color circle.
        p: probability of each of the four changes.
    """

    def __init__(
        self,
        brightness: tuple[NonNegativeFloat, NonNegativeFloat] = (0.875, 1.125),
        contrast: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 1.5),
        saturation: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 1.5),
        hue: tuple[float, float] = (-0.1, 0.1),
        p: Fraction = 0.5,
    ):
        super().__init__(brightness, contrast, saturation, hue, p)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return super().make_params(flat_inputs) | {"channel_permutation": None}


@TRANSFORMS.register_module()
class Lighting(v2.Transform):
    """Add one random color to all pixels (PCA color augmentation, Krizhevsky et al. 2012, section 4.1).

    Adds each principal component of ImageNet's colors, times its eigenvalue and a Gaussian random number.

    Args:
        std: standard deviation of the Gaussian.
    """

    def __init__(self, std: NonNegativeFloat = 0.1):
        super().__init__()
        self.std = std

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        amounts = torch.randn(3) * self.std * torch.tensor(EIGENVALUES)
        return {"added": 255 * (torch.tensor(EIGENVECTORS) @ amounts)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, Image):
            return inpt
        pixels = inpt.as_subclass(Tensor)
        lit = pixels + params["added"][:, None, None]
        return wrap(lit if pixels.is_floating_point() else lit.round().clamp(0, 255).to(pixels.dtype), like=inpt)


@TRANSFORMS.register_module()
class NoiseErasing(v2.RandomErasing):
    """Fill a random rectangle with noise of ImageNet's mean and std (Zhong et al. 2020, Random Erasing, section 3).

    v2's RandomErasing with `value="random"` expects normalized images; in our pipelines, values are 0 … 255.

    Args:
        p: probability per image.
        scale: smallest and largest area of the rectangle, as fractions of the image area.
        ratio: smallest and largest ratio of the rectangle's height to its width.
    """

    def __init__(
        self,
        p: Fraction = 0.25,
        scale: tuple[Fraction, Fraction] = (0.02, 1 / 3),
        ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 10 / 3),
    ):
        super().__init__(p, scale, ratio, value="random")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)
        if params["v"] is not None:
            mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
            params["v"] = (params["v"] * std + mean).round().clamp(0, 255)
        return params
