"""Resizing for detectors: by the shortest edge, with a limit on the longest edge; and large-scale jitter."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image

from chordate.arguments import NonEmpty, NotDescending, PositiveFloat, PositiveInt
from chordate.registry import TRANSFORMS


def _image_size(flat_inputs: list[Any]) -> tuple[int, int]:
    height, width = F.get_size(next(value for value in flat_inputs if isinstance(value, Image)))
    return height, width


@TRANSFORMS.register_module()
class ResizeShortestEdge(v2.Transform):
    """Resize so that the shorter edge is `size`, or less if the longer edge would exceed `max_size`.

    Faster R-CNN with FPN uses 800 (Lin et al. 2017, section 5) and 1333 (the authors' code, Detectron). If `size` is a
    list, a length is drawn from it uniformly for each image (multi-scale training: 640, 672, … 800).

    Args:
        size: length of the shorter edge in pixels, or a list of lengths.
        max_size: maximum length of the longer edge in pixels.
        rounding: "detectron2" rounds the new size to the nearest integer, and interpolates like Pillow (with
            antialiasing; uint8 stays uint8).
            "torchvision" is bit-identical to torchvision's detectors: it rounds the size down and interpolates floats
            bilinearly without antialiasing; the image becomes float32, 0 … 255.
    """

    def __init__(
        self,
        size: PositiveInt | Annotated[Sequence[PositiveInt], NonEmpty],
        max_size: PositiveInt = 1333,
        rounding: Literal["detectron2", "torchvision"] = "detectron2",
    ):
        super().__init__()
        self.sizes = [size] if isinstance(size, int) else list(size)
        self.max_size, self.rounding = max_size, rounding

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _image_size(flat_inputs)
        short = self.sizes[int(torch.randint(len(self.sizes), ()))]
        scale = min(short / min(height, width), self.max_size / max(height, width))
        add = 0.5 if self.rounding == "detectron2" else 0.0
        size = [max(1, int(height * scale + add)), max(1, int(width * scale + add))]
        return {"size": size, "scale": scale}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if self.rounding == "torchvision" and isinstance(inpt, Image):
            pixels = inpt.as_subclass(Tensor)
            pixels = pixels if pixels.is_floating_point() else pixels.float()
            return Image(
                interpolate(pixels[None], scale_factor=params["scale"], mode="bilinear", recompute_scale_factor=True)[0]
            )
        return self._call_kernel(F.resize, inpt, params["size"], antialias=True)


@TRANSFORMS.register_module()
class LargeScaleJitter(v2.Transform):
    """Scale by a random factor and crop at random (Ghiasi et al. 2021, section 3).

    The image is scaled to fit into `factor × size`, where `factor` is uniform in `scale`, and cropped at random to
    `size` where it is larger. Smaller images are padded when they are collated into a batch.

    Args:
        size: crop size in pixels: one number for a square, or height and width (1024 in the paper).
        scale: smallest and largest factor.
    """

    def __init__(
        self,
        size: PositiveInt | tuple[PositiveInt, PositiveInt] = 1024,
        scale: Annotated[tuple[PositiveFloat, PositiveFloat], NotDescending] = (0.1, 2.0),
    ):
        super().__init__()
        self.size = [size, size] if isinstance(size, int) else list(size)
        self.scale = tuple(scale)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _image_size(flat_inputs)
        factor = float(torch.empty(()).uniform_(*self.scale))
        scale = factor * min(self.size[0] / height, self.size[1] / width)
        scaled = [max(1, round(height * scale)), max(1, round(width * scale))]
        window = [min(side, limit) for side, limit in zip(scaled, self.size)]
        corner = [int(torch.randint(side - cut + 1, ())) for side, cut in zip(scaled, window)]
        return {"scaled": scaled, "crop": (*corner, *window)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        scaled = self._call_kernel(F.resize, inpt, params["scaled"], antialias=True)
        return self._call_kernel(F.crop, scaled, *params["crop"])
