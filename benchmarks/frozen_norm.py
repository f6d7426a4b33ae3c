"""Benchmark of ResNet-50 with FPN and FrozenBN against torchvision's, with the same weights, statistics and images.

Our model folds each norm into its convolution; "unfolded" is our model with a hook in each norm, which prevents
folding. Ratios are torchvision's median time over ours: above 1, ours is faster.

    python benchmarks/frozen_norm.py [--height 800 --width 1088 --batch 1 --rounds 7]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.table import Table
from rivals import calibrate
from timing import alternate
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from chordate.ops.norms import FrozenBatchNorm
from chordate.registry import BACKBONES, NECKS

# Relative to a feature map's maximum. Random networks amplify rounding errors; in float64 the difference is 1e-12.
TOLERANCE = 1e-3


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # Torchvision's trainable_layers=3 is frozen_stages=1.
        self.backbone = BACKBONES.build({"type": "resnet50", "norm": "FrozenBN", "frozen_stages": 1})
        self.neck = NECKS.build("FPN", in_features=self.backbone.out_features)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.neck(self.backbone(images))


def sides(images: Tensor) -> tuple[Ours, nn.Module]:
    """Our model and torchvision's, with the same weights and calibrated statistics."""
    theirs = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    ).to(images.device)
    calibrate(theirs, images)
    ours = Ours().to(images.device)
    ours.backbone.load_state_dict(theirs.body.state_dict())
    for i, (name, level) in enumerate(zip(ours.neck.lateral, ours.neck.output, strict=True)):
        ours.neck.lateral[name].load_state_dict(theirs.fpn.inner_blocks[i].state_dict())
        ours.neck.output[level].load_state_dict(theirs.fpn.layer_blocks[i].state_dict())
    return ours, theirs


@contextmanager
def unfolded(model: nn.Module) -> Iterator[None]:
    hooks = [m.register_forward_hook(lambda *_: None) for m in model.modules() if isinstance(m, FrozenBatchNorm)]
    yield
    for hook in hooks:
        hook.remove()


def inference(model: nn.Module, images: Tensor) -> Callable[[], dict[str, Tensor]]:
    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        return model(images)

    return run


def training(model: nn.Module, images: Tensor) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad()
        sum(x.mean() for x in model(images).values()).backward()  # type: ignore[union-attr]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1088)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(arguments.batch, 3, arguments.height, arguments.width, device=device)
    ours, theirs = sides(images)
    table = Table(title=f"R-50 FPN, FrozenBN, {device}, fp32, {'×'.join(map(str, images.shape))}")
    for column in ("work", "layout", "ours / s", "unfolded / s", "torchvision / s", "ratio", "ratio, unfolded"):
        table.add_column(column, justify="left" if column in ("work", "layout") else "right")
    for layout in (torch.contiguous_format, torch.channels_last):
        images = images.contiguous(memory_format=layout)
        ours, theirs = ours.to(memory_format=layout), theirs.to(memory_format=layout)
        for mine, other in zip(inference(ours, images)().values(), inference(theirs, images)().values(), strict=True):
            assert (mine - other).abs().max() <= TOLERANCE * other.abs().max(), "the two sides differ"
        for make in (inference, training):
            folded = alternate(make(ours, images), make(theirs, images), arguments.rounds)
            with unfolded(ours):
                plain = alternate(make(ours, images), make(theirs, images), arguments.rounds)
            times = [f"{seconds:.3f}" for seconds in (folded[0], plain[0], folded[1])]
            ratios = [f"{other / mine:.2f}×" for mine, other in (folded, plain)]
            table.add_row(make.__name__, str(layout).removeprefix("torch."), *times, *ratios)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
