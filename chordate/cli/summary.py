"""Print parameters, multiply-adds and feature maps of backbones and models."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chordate.contracts import FeatureSpec
    from chordate.model_contracts import Model

NOTE = (
    "FLOPs are multiply-adds of convolutions and matrix products, as in the ResNet paper's table 1; other tools "
    "count a multiply-add as two. A backbone's parameters and FLOPs include a linear layer on its last map, of 1000 "
    "classes or, for 32 px, 10, so that they compare with the papers' tables. The paper's bottleneck has its stride in "
    'the first 1×1 (style="caffe"); ours and torchvision\'s have it in the 3×3 (v1.5), about 7 % more FLOPs. '
    "A config's model has the classes of its `fallback_meta`, else 80; its input is of its test images' size, if fixed."
)
DEFAULT_CLASSES = 80  # COCO's
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

    from chordate.api import list_backbones, list_models
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
            model = counted_model(load_config(name))
            table.add_row(Path(name).name, *row(model, arguments.size or model.example_size, model.feature_specs()))
        for name in sorted(backbones, key=_by_number):
            table.add_row(name, *backbone_row(name, arguments.size))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, UNWRAPPED)
    console.print(table)


def counted_model(cfg: Any) -> Model:
    """The model of a config without its weights; its example size is that of its test images, if these have one."""
    from chordate.models.build import build_model, config_meta
    from chordate.structures import DatasetMeta
    from chordate.structures.metadata import nameless

    meta = config_meta(cfg) or DatasetMeta(nameless(DEFAULT_CLASSES))
    model = build_model(cfg, meta=meta, pretrained=False)
    model.example_size = fixed_size(model.pipeline) or model.example_size
    return model


def fixed_size(pipeline: Sequence[Any]) -> tuple[int, int] | None:
    """Height and width of all images after a pipeline; None where they depend on the image."""
    import torch
    from torchvision.tv_tensors import Image

    from chordate.data.transforms import build_pipeline

    blanks = [torch.zeros(3, *size, dtype=torch.uint8) for size in ((300, 400), (500, 350))]
    sizes = {tuple(build_pipeline(pipeline)({"image": Image(blank)})["image"].shape[-2:]) for blank in blanks}
    return sizes.pop() if len(sizes) == 1 else None  # type: ignore[return-value]


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
            self.fc = nn.Linear(spec.channels, 10 if self.backbone.example_size == (32, 32) else 1000)

        def forward(self, images: Any) -> Any:
            return self.fc(self.backbone(images)[self.last].flatten(2).mean(2))

    with torch.device("meta"):
        model = Classifier()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # changes no shape and counts nothing, but takes half of the time
            part.forward = nn.Identity().forward  # type: ignore[method-assign]
    return row(model, size or model.backbone.example_size, model.backbone.out_features)


def row(model: Any, size: tuple[int, int], specs: Mapping[str, FeatureSpec]) -> tuple[str, str, str, str]:
    """The table's cells: input, parameters in millions, multiply-adds in billions, and the maps on offer."""
    maps = " ".join(f"{name}:{spec.channels}/{spec.stride}" for name, spec in specs.items())
    parameters = sum(p.numel() for p in model.parameters())
    return f"{size[0]}×{size[1]}", f"{parameters / 1e6:.2f}", f"{multiply_adds(model, size) / 1e9:.2f}", maps


def multiply_adds(model: Any, size: tuple[int, int]) -> float:
    """Multiply-adds of one forward pass on one blank image of this height and width."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from chordate.model_contracts import Model

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()
        if isinstance(model, Model):
            model.predict(model.example_batch(*size))
        else:
            model(torch.zeros(1, *model.backbone.input_shape(*size), device=next(model.parameters()).device))
    return counter.get_total_flops() / 2
