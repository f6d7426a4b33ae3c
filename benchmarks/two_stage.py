"""Faster R-CNN R-50 FPN against torchvision's: training step and inference, same weights, same pictures.

Both sides run in one process and take turns, so that what else the machine does falls on both. Ratios are
torchvision's median time over ours: above 1, ours is faster. "Like for like" gives both sides the same memory layout
and precision; "as shipped" leaves each side its defaults.

    python benchmarks/two_stage.py [--height 480 --width 640 --batch 2 --rounds 7] [--profile]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timing import alternate
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

import chordate
from chordate.structures import Batch, ImageInfo, InstanceTargets

BOXES = 8  # ground-truth boxes an image, about COCO's mean of 7.3


def sides(device: torch.device, size: tuple[int, int]) -> tuple[Any, Any]:
    """Ours and torchvision's, with one set of weights: the three last stages train, BatchNorm is frozen."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    theirs = FasterRCNN(backbone, num_classes=91, min_size=min(size), max_size=max(size))
    ours = chordate.build_model("faster-rcnn_r50_fpn_torchvision", num_classes=90, pretrained=False)
    with torch.no_grad():  # small weights keep the random network's activations and boxes in range
        for name, parameter in theirs.named_parameters():
            if "bn" in name or "downsample.1" in name:
                continue
            if name.endswith("conv3.weight"):
                parameter.mul_(0.2)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(3)
    chordate.load_checkpoint(ours, theirs.state_dict())
    ours.pipeline = [
        {"type": "ResizeShortestEdge", "size": min(size), "max_size": max(size), "rounding": "torchvision"}
    ]
    return ours.to(device), theirs.to(device)


def pictures(count: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 images `[N, 3, H, W]`, boxes `[N, G, 4]`, labels `[N, G]`."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, height // 16, width // 16), generator=random).float()
    images = torch.nn.functional.interpolate(images, (height, width), mode="bilinear").to(torch.uint8)
    span = torch.tensor([width, height, width, height])
    corner = torch.rand(count, BOXES, 2, generator=random) * 0.7
    extent = 0.03 + 0.27 * torch.rand(count, BOXES, 2, generator=random)
    boxes = torch.cat([corner, corner + extent], dim=-1) * span
    return images, boxes, torch.randint(0, 90, (count, BOXES), generator=random)


def our_batch(images: Tensor, boxes: Tensor, labels: Tensor) -> Batch:
    count, _, height, width = images.shape
    filled = torch.ones(count, BOXES, dtype=torch.bool)
    targets = InstanceTargets(boxes, labels, filled, ~filled)
    infos = [ImageInfo(i, f"image {i}", height, width) for i in range(count)]
    return Batch(images, torch.tensor([[height, width]] * count), infos, targets)


def trainer(model: Any, losses: Callable[[], dict[str, Tensor]], precision: str) -> Callable[[], None]:
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            total = sum(losses().values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[union-attr]
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="print where our training step and inference spend time")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, theirs = sides(device, (arguments.height, arguments.width))
    images, boxes, labels = pictures(arguments.batch, arguments.height, arguments.width, seed=0)
    batch = our_batch(images, boxes, labels).to(device)
    their_images = [image.float().div(255).to(device) for image in images]
    their_targets = [{"boxes": b.to(device), "labels": n.to(device) + 1} for b, n in zip(boxes, labels)]
    table = Table(
        title=f"{device}, {arguments.batch} × {arguments.height}×{arguments.width}, median of {arguments.rounds}"
    )
    for column in ("work", "layout and precision", "ours / s", "torchvision / s", "ratio"):
        table.add_column(column, justify="left" if column in ("work", "layout and precision") else "right")

    def row(work: str, how: str, run: Callable[[], Any], rival: Callable[[], Any]) -> None:
        mine, other = alternate(run, rival, arguments.rounds)
        table.add_row(work, how, f"{mine:.3f}", f"{other:.3f}", f"{other / mine:.2f}×")

    def shipped() -> Any:
        return chordate.predict(ours, images, batch_size=arguments.batch)

    def detect(model: Any, inputs: Any, precision: str = "fp32") -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Any:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                return model(inputs)

        return run

    def step(model: Any, *inputs: Any, precision: str = "fp32") -> Callable[[], None]:
        return trainer(model, lambda: model(*inputs), precision)

    def layout(form: torch.memory_format, *models: Any) -> None:
        for model in models:
            model.to(memory_format=form)
        batch.images = batch.images.contiguous(memory_format=form)

    ours.eval(), theirs.eval()
    row("inference", "like for like: contiguous, fp32", detect(ours, batch), detect(theirs, their_images))
    row("inference", "as shipped: chordate.predict, torchvision's model", shipped, detect(theirs, their_images))
    ours.train(), theirs.train()
    row(
        "training step", "like for like: contiguous, fp32", step(ours, batch), step(theirs, their_images, their_targets)
    )
    layout(torch.channels_last, ours)
    shipped_step = step(ours, batch)
    row(
        "training step", "as shipped: fp32, ours channels-last", shipped_step, step(theirs, their_images, their_targets)
    )
    layout(torch.channels_last, theirs)
    for precision in ("fp32", "bf16"):
        how = f"like for like: channels-last, {precision}"
        ours.train(), theirs.train()
        theirs_step = step(theirs, their_images, their_targets, precision=precision)
        row("training step", how, step(ours, batch, precision=precision), theirs_step)
        ours.eval(), theirs.eval()
        row("inference", how, detect(ours, batch, precision), detect(theirs, their_images, precision))
    Console(width=120).print(table)
    if arguments.profile:
        show_profile("inference", shipped)
        ours.train()
        show_profile("training step", shipped_step)


def show_profile(title: str, run: Callable[[], Any]) -> None:
    with torch.profiler.profile() as profile:
        run()
    print(f"\n{title}\n{profile.key_averages().table(sort_by='self_cpu_time_total', row_limit=25)}")


if __name__ == "__main__":
    main()
