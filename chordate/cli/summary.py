"""Print parameters, multiply-adds and feature maps of backbones and models."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chordate.contracts import FeatureSpec
    from chordate.model_contracts import Model

FLOPS_NOTE = "FLOPs are the multiply-adds of convolutions and matrix products, each counted once."
BACKBONE_NOTE = "Backbones are counted with a linear layer of 1000 classes (10 at 32 px) on top."
BOTTLENECK_NOTE = 'Bottlenecks have their stride in the 3×3 conv (v1.5); style="caffe" has 7 % fewer FLOPs.'
CLASSES_NOTE = "A config without class names is counted with one class, if its task has classes."
UNWRAPPED = 160  # minimum width in characters of a table that is written to a file or a pipe
EXAMPLE = "chordate summary faster-rcnn_r50_fpn_1x_coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="names or shell patterns of backbones and configs, or config files (default: every backbone)",
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"),
        help="input size in pixels (default: 224 224 for backbones, 32 32 for CIFAR's, 800 1344 for detectors)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from chordate.api import list_backbones, list_models
    from chordate.config import load_config
    from chordate.errors import ConfigError
    from chordate.models.build import config_meta
    from chordate.registry import BACKBONES
    from chordate.text import by_number

    if arguments.size and min(arguments.size) < 32:
        raise ConfigError(f"--size {arguments.size}: height and width must be at least 32 pixels")
    table = Table(caption_justify="left", title_justify="left")
    table.add_column("name", no_wrap=True)
    for column in ("input", "parameters / M", "FLOPs / G"):
        table.add_column(column, justify="right")
    table.add_column("maps: channels/stride")
    notes, assumed = [FLOPS_NOTE], list[str]()
    list_backbones()  # imports all backbones, so that their variants are known
    for pattern in arguments.names or sorted(BACKBONES.variants, key=by_number):
        models = [pattern] if Path(pattern).is_file() else list_models(pattern)
        backbones = [] if models else list_backbones(pattern)
        if not models and not backbones:
            models = composed_models(pattern)
        for name in models:
            cfg = load_config(name)
            model = model_without_weights(cfg)
            size = arguments.size or pipeline_size(model.pipeline, model.size_divisor)
            if not size:
                size = model.example_size
                assumed.append(f"{size[0]}×{size[1]}")
            if config_meta(cfg) is None:
                notes.append(CLASSES_NOTE)
            title = Path(name).stem if Path(name).is_file() else name
            table.add_row(*map(Text, (title, *row(model, size, model.feature_specs()))))
        for name in sorted(backbones, key=by_number):
            notes.append(BACKBONE_NOTE)
            if is_bottleneck(BACKBONES.expand(name)):
                notes.append(BOTTLENECK_NOTE)
            table.add_row(name, *backbone_row(name, arguments.size))
    table.caption = "\n".join(dict.fromkeys(notes))
    if assumed:
        table.title = f"configs whose pipeline sets no size: {', '.join(dict.fromkeys(assumed))} assumed"
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, UNWRAPPED)
    console.print(table)


def composed_models(pattern: str) -> list[str]:
    """The composed config names that match a pattern, or the pattern itself if it is a config name that is not listed.

    Raises:
        ConfigError: no config name matches.
    """
    from chordate.api import list_backbones, list_models
    from chordate.config_names import find_config, match_configs
    from chordate.errors import ConfigError, near_names, unknown

    names = match_configs(pattern)
    if not names and near_names(pattern, list_backbones()):
        raise ConfigError(unknown("backbone or model", pattern, [*list_backbones(), *list_models()]))
    if not names:
        find_config(pattern)  # accepts the name of any composed config; otherwise, the error names the unknown part
    return names or [pattern]


def model_without_weights(cfg: Any) -> Model:
    """Build the model of a config without loading weights."""
    from chordate.models.build import build_model, config_meta
    from chordate.structures import DatasetMeta
    from chordate.structures.metadata import numbered_names

    return build_model(cfg, meta=config_meta(cfg) or DatasetMeta(numbered_names(1)), pretrained=False)


def pipeline_size(pipeline: Sequence[Any], divisor: int) -> tuple[int, int] | None:
    """Height and width of a 3:5 image (height:width) after a pipeline, padded to multiples of `divisor`; None if they
    depend on the original size.

    3:5 is the aspect ratio of 800×1333 pixels, the largest size in the usual test pipeline of COCO detectors.
    """
    import torch
    from torchvision.tv_tensors import Image

    from chordate.data.transforms import build_pipeline
    from chordate.structures import ImageInfo

    transform, sizes = build_pipeline(pipeline), set()
    for height in (300, 600):
        width = height * 5 // 3
        blank = Image(torch.zeros(3, height, width, dtype=torch.uint8))
        image = transform({"image": blank, "info": ImageInfo(0, "blank", height, width)})["image"]
        sizes.add(tuple(-(-side // divisor) * divisor for side in image.shape[-2:]))
    return sizes.pop() if len(sizes) == 1 else None  # type: ignore[return-value]


def is_bottleneck(settings: Mapping[str, Any]) -> bool:
    """Whether a backbone is a ResNet whose bottlenecks have the stride in the 3×3 convolution."""
    return settings["type"] == "ResNet" and settings.get("depth", 0) >= 50 and settings.get("style") != "caffe"


def backbone_row(name: str, size: tuple[int, int] | None) -> tuple[str, str, str, str]:
    """The table cells for a backbone with a linear classifier, built on the meta device, which computes only shapes."""
    import torch
    from torch import nn

    from chordate.registry import BACKBONES

    class Classifier(nn.Module):
        """The backbone, global average pooling of its last feature map, and a linear layer."""

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
        if isinstance(part, nn.BatchNorm2d):  # BatchNorm takes half of the time, but affects neither shapes nor counts
            part.forward = nn.Identity().forward  # type: ignore[method-assign]
            part.running_mean = None  # a norm without statistics is not folded into the convolution
    return row(model, size or model.backbone.example_size, model.backbone.out_features)


def row(model: Any, size: tuple[int, int], specs: Mapping[str, FeatureSpec]) -> tuple[str, str, str, str]:
    """The table cells: input size, parameters in millions, multiply-adds in billions, and output feature maps."""
    maps = " ".join(f"{name}:{spec.channels}/{spec.stride}" for name, spec in specs.items())
    parameters = sum(p.numel() for p in model.parameters())
    return f"{size[0]}×{size[1]}", f"{parameters / 1e6:.2f}", f"{multiply_adds(model, size) / 1e9:.2f}", maps


def multiply_adds(model: Any, size: tuple[int, int]) -> float:
    """Multiply-adds of one forward pass on one blank image of `size`, height and width."""
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
