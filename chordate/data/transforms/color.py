"""Random colours in training on ImageNet: AlexNet's lighting noise, and erased patches full of noise."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, wrap

from chordate import checks
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.registry import TRANSFORMS

# Of the covariance of RGB over ImageNet's training pixels, 0 … 1, as fb.resnet.torch has them; vectors are columns.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@TRANSFORMS.register_module()
class Lighting(v2.Transform):
    """Add one random colour to all pixels, as light changes (Krizhevsky et al. 2012, section 4.1).

    Each principal component of ImageNet's colours is added in a random amount: a Gaussian times its eigenvalue.

    Args:
        std: of the Gaussian.

    Raises:
        ConfigError: a negative `std`.
    """

    def __init__(self, std: float = 0.1):
        super().__init__()
        checks.number("Lighting: std", std, least=0)
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
    """Fill a random rectangle with noise (Zhong et al. 2020, Random Erasing, section 3), of ImageNet's colours.

    RandomErasing's `value="random"` is for images that are normalised already; pipelines here leave them at 0 … 255.

    Args:
        p: share of the images.
        scale: of the rectangle's area, least and most, as shares of the image.
        ratio: of its height to its width, least and most.
    """

    def __init__(self, p: float = 0.25, scale: Sequence[float] = (0.02, 1 / 3), ratio: Sequence[float] = (0.3, 10 / 3)):
        super().__init__(p, scale, ratio, value="random")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)
        if params["v"] is not None:
            mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
            params["v"] = (params["v"] * std + mean).round().clamp(0, 255)
        return params
