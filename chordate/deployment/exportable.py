"""Exportable: a model as a function of tensors, which `torch.export` turns into a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chordate.deployment.fold_norms import fold_norms
from chordate.errors import ConfigError
from chordate.model_contracts import Model
from chordate.text import one_line

MIN_SIDE = 64  # limits of a dynamic height or width in pixels
MAX_SIDE = 8192
MAX_BATCH = 1024  # limit of a dynamic number of images


class Exportable(nn.Module):
    """A copy of a model on the CPU, in float32, with BatchNorms folded, as a function of tensors.

    The inputs are `images` `[N, C, H, W]`, uint8 RGB pixels 0 … 255, and, for models with `exports_sizes`, `sizes`
    `[N, 2]` int64: height and width of each image without its padding, which is at the right and the bottom. `H` and
    `W` are multiples of the model's `size_divisor`. The normalization is part of the model. The outputs are those of
    `Model.predict_tensors`.

    Args:
        model: a model in evaluation mode.
        size: height and width in pixels of the images, or of the example inputs if sizes are dynamic.
        batch: number of images.
        dynamic: whether height, width and number of images are dynamic.

    Attributes:
        outputs: names of the outputs, set by `program`.

    Raises:
        ConfigError: the height or width is not a multiple of the model's `size_divisor`.
    """

    def __init__(self, model: Model, size: tuple[int, int], batch: int = 1, dynamic: bool = False):
        super().__init__()
        divisor = model.size_divisor
        if any(side % divisor for side in size):
            fitting = " ".join(str(-(-side // divisor) * divisor) for side in size)
            raise ConfigError(
                f"--size {size[0]} {size[1]}: {type(model).__name__} takes multiples of {divisor} pixels, "
                f"for example {fitting}"
            )
        self.model = fold_norms(model).cpu().float()
        self.size, self.batch, self.dynamic = size, batch, dynamic
        self.outputs: list[str] = []

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs."""
        return ["images", "sizes"] if self.model.exports_sizes else ["images"]

    @property
    def smallest(self) -> int:
        """The smallest dynamic height and width in pixels. They exceed the coarsest stride, so that every feature map
        has at least two cells per side: `torch.export` treats a size of 1 as constant."""
        strides = [spec.stride for spec in self.model.feature_specs().values()]
        divisor = self.model.size_divisor
        return -(-max(MIN_SIDE, *(stride + 1 for stride in strides)) // divisor) * divisor

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        if sizes is None:
            n, height, width = images.shape[0], images.shape[-2], images.shape[-1]
            sizes = torch.stack([torch.full((n,), side, device=images.device) for side in (height, width)], dim=1)
        return self.model.predict_tensors(images, sizes)

    def example(self) -> tuple[Tensor, ...]:
        """Example inputs: blank images."""
        batch, size = self.batch, self.size
        if self.dynamic:
            height, width = (max(side, self.smallest) for side in size)
            batch, size = max(batch, 2), (height, width)  # torch.export treats a batch size of 1 as constant
        images = torch.zeros(batch, *self.model.input_shape(*size), dtype=torch.uint8)
        sizes = torch.tensor([size] * batch)
        return (images, sizes) if self.model.exports_sizes else (images,)

    def program(self) -> torch.export.ExportedProgram:
        """The graph of the model.

        Raises:
            ConfigError: the model cannot be exported; the message has the reason.
        """
        example = self.example()
        shapes: Any = None
        if self.dynamic:
            dim, divisor = torch.export.Dim, self.model.size_divisor
            batch = dim("batch", min=1, max=MAX_BATCH)
            limits = {"min": self.smallest // divisor, "max": MAX_SIDE // divisor}
            sides = (dim(name, **limits) for name in ("rows", "columns"))
            height, width = (divisor * side if divisor > 1 else side for side in sides)
            last = example[0].ndim - 1
            shapes = ({0: batch, last - 1: height, last: width}, {0: batch})[: len(example)]
        try:
            with torch.no_grad():
                self.eval()
                program = torch.export.export(self, example, dynamic_shapes=shapes)
        except ConfigError:
            raise
        except Exception as error:  # torch.export raises many types of errors
            reason = one_line(error, 300)
            kind = "dynamic sizes" if self.dynamic else "a fixed size"
            raise ConfigError(f"{type(self.model).__name__} cannot be exported with {kind}: {reason}") from error
        self.outputs = list(program.call_spec.out_spec.context)  # type: ignore[union-attr]
        return program
