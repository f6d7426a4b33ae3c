"""Print parameters, multiply-adds and feature maps of backbones and models."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

NOTE = (
    "FLOPs are multiply-adds of convolutions and matrix products, as in the ResNet paper's table 1; other tools "
    "count a multiply-add as two. A backbone's parameters and FLOPs include a linear layer on its last map, of 1000 "
    "classes or, for 32 px, 10, so that they compare with the papers' tables. The paper's bottleneck has its stride in "
    'the first 1×1 (style="caffe"); ours and torchvision\'s have it in the 3×3 (v1.5), about 7 % more FLOPs. '
    "A detector counts as it predicts 80 classes, a classifier's config with its data's classes and test size."
)
UNWRAPPED = 160  # columns of a table that goes into a file or a pipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="backbones, configs or config files, shell patterns too (default: every backbone)",
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="of the input, in pixels (default: 224 224 for backbones, 32 32 for CIFAR's, 800 1344 for detectors)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from chordate.api import build_model, list_backbones, list_models
    from chordate.config import load_config
    from chordate.errors import ConfigError, unknown
    from chordate.registry import BACKBONES

    if arguments.size and min(arguments.size) < 32:
        raise ConfigError(f"--size {arguments.size}: at least 32 pixels each")
    table = Table(caption=NOTE, caption_justify="left")
    table.add_column("name", no_wrap=True)
    for column in ("input", "parameters / M", "FLOPs / G"):
        table.add_column(column, justify="right")
    table.add_column("maps: channels/stride")
    list_backbones()  # imports the plugs, so that their variants are known
    for pattern in arguments.names or sorted(BACKBONES.variants, key=_by_number):
        models = [pattern] if Path(pattern).is_file() else list_models(pattern)
        backbones = [] if models else list_backbones(pattern)
        if not models and not backbones:
            raise ConfigError(unknown("backbone or model", pattern, [*list_backbones(), *list_models()]))
        for name in models:
            classes, size = usual(load_config(name))
            model: Any = build_model(name, num_classes=classes, pretrained=False)
            table.add_row(Path(name).name, *row(model, arguments.size or size, features_of=model))
        for name in sorted(backbones, key=_by_number):
            table.add_row(name, *backbone_row(name, arguments.size))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, UNWRAPPED)
    console.print(table)


def usual(cfg: Any) -> tuple[int, tuple[int, int]]:
    """How many classes a config's model is counted with, and the height and width of the image that it sees."""
    if cfg.model.get("type") != "ImageClassifier":
        return 80, (800, 1344)
    data = cfg.get("val_data") or {}
    small = {"CIFAR10": 10, "CIFAR100": 100}.get(data.get("dataset", {}).get("type"))
    sizes = [step["size"] for step in data.get("pipeline", []) if "size" in step]  # the last is that of the crop
    side = sizes[-1] if sizes else 32 if small else 224
    return small or 1000, (side, side) if isinstance(side, int) else (side[0], side[1])


def _by_number(name: str) -> list[str | int]:
    """Sorts resnet18 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def backbone_row(name: str, size: tuple[int, int] | None) -> tuple[str, str, str, str]:
    """The table's cells of a backbone with a classifier, counted on the meta device, where only shapes are known."""
    import torch
    from torch import nn

    from chordate.registry import BACKBONES

    class Classifier(nn.Module):
        """Global average pooling and a linear layer on the last map."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = BACKBONES.build(name)
            self.last, spec = list(self.backbone.out_features.items())[-1]
            self.small = spec.stride < 8  # made for CIFAR's pictures
            self.fc = nn.Linear(spec.channels, 10 if self.small else 1000)

        def forward(self, images: Any) -> Any:
            return self.fc(self.backbone(images)[self.last].mean((2, 3)))

    with torch.device("meta"):
        model = Classifier()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # changes no shape and counts nothing, but takes half of the time
            part.forward = nn.Identity().forward  # type: ignore[method-assign]
    return row(model, size or ((32, 32) if model.small else (224, 224)), features_of=model.backbone)


def row(model: nn.Module, shape: tuple[int, int], features_of: Any) -> tuple[str, str, str, str]:
    """The table's cells: input, parameters in millions, multiply-adds in billions, and the maps on offer."""
    offered = getattr(features_of, "neck", None) or getattr(features_of, "backbone", None) or features_of
    maps = " ".join(f"{name}:{spec.channels}/{spec.stride}" for name, spec in offered.out_features.items())
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{shape[0]}×{shape[1]}",
        f"{parameters / 1e6:.2f}",
        f"{multiply_adds(model, shape) / 1e9:.2f}",
        maps,
    )


def multiply_adds(model: nn.Module, shape: tuple[int, int]) -> float:
    """Multiply-adds of one forward pass on one image `[3, *shape]`; a detector sees a blank one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from chordate.structures import Batch, ImageInfo

    images: Any = torch.zeros(1, 3, *shape)
    if hasattr(model, "classes"):
        images = Batch(images, torch.tensor([shape]), [ImageInfo(0, "blank", *shape)])
    else:
        images = images.to(next(model.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(images)
    return counter.get_total_flops() / 2
