"""Times DeepLabV3 R-50 against torchvision, and DeepLabV3+ R-50 against segmentation_models.pytorch.

Both sides run alternately in one process, on the same images and labels. Ratios are the other library's median time
divided by ours, so above 1, ours is faster. The networks have 21 classes, and output stride 8 (DeepLabV3) or 16
(DeepLabV3+). DeepLabV3 has an auxiliary head on c4, and the same weights on both sides. "Both contiguous" and "both
channels-last" use the same memory layout on both sides; "as shipped" uses the default of each library, which for ours
is channels-last on devices where it is faster. A training step includes the losses, the backward pass and the SGD
step; inference ends with a label per pixel.

    python benchmarks/dense.py [--side 512 --batch 2 --rounds 5] [--profile]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timing import alternate
from torch import Tensor, nn

import chordate
from chordate.structures import IGNORED, Batch, DatasetMeta, ImageInfo, SemanticTargets
from chordate.training.precision import use_channels_last

CLASSES = 21
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}
AUXILIARY_WEIGHT = 0.5  # weight of the auxiliary loss in torchvision's reference training


def segmenter(**model: Any) -> Any:
    settings = {"type": "SemanticSegmenter", "preprocess": PLAIN, "auxiliary_weight": AUXILIARY_WEIGHT, **model}
    meta = DatasetMeta(tuple(f"class {number}" for number in range(CLASSES)))
    return chordate.build_model({"model": settings}, meta=meta, pretrained=False)


def deeplabv3() -> tuple[Any, Any]:
    from torchvision.models.segmentation import deeplabv3_resnet50

    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    ours = segmenter(
        backbone={"type": "resnet50", "out": ["c4", "c5"], "output_stride": 8},
        head={"type": "DeepLabV3Head"},
        auxiliary={"type": "FCNHead", "level": "c4"},
    )
    chordate.load_checkpoint(ours, theirs.state_dict())
    return ours, theirs


def deeplabv3plus() -> tuple[Any, Any]:
    from segmentation_models_pytorch import DeepLabV3Plus

    theirs = DeepLabV3Plus("resnet50", encoder_weights=None, classes=CLASSES)
    ours = segmenter(
        backbone={"type": "resnet50", "out": ["c2", "c5"], "output_stride": 16}, head={"type": "DeepLabV3PlusHead"}
    )
    return ours, theirs


def their_logits(model: nn.Module, images: Tensor) -> list[Tensor]:
    outputs = model(images)
    return [outputs["out"], *([outputs["aux"]] if "aux" in outputs else [])] if isinstance(outputs, dict) else [outputs]


def their_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    weights = (1.0, AUXILIARY_WEIGHT)
    losses = (F.cross_entropy(logits, labels, ignore_index=255) for logits in their_logits(model, images))
    return sum(weight * loss for weight, loss in zip(weights, losses))  # type: ignore[return-value]


def step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where our DeepLabV3 spends time")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, count = arguments.side, arguments.batch
    batch = random_batch(count, side).to(device)
    table = Table(title=f"{device}, {count} × {side}×{side}, median of {arguments.rounds}")
    for column in ("model", "work", "layout", "ours / s", "theirs / s", "ratio"):
        table.add_column(column, justify="right" if column in ("ours / s", "theirs / s", "ratio") else "left")
    layouts = {
        "both contiguous": (torch.contiguous_format, torch.contiguous_format),
        "both channels-last": (torch.channels_last, torch.channels_last),
    }
    if use_channels_last("auto", device):  # otherwise our default is contiguous as well
        layouts["as shipped"] = (torch.channels_last, torch.contiguous_format)
    for name, make in (("DeepLabV3 R-50", deeplabv3), ("DeepLabV3+ R-50", deeplabv3plus)):
        ours, theirs = (model.to(device) for model in make())
        for layout, formats in layouts.items():
            for work, seconds in compare(ours, theirs, batch, formats, arguments.rounds).items():
                mine, other = seconds
                table.add_row(name, work, layout, f"{mine:.3f}", f"{other:.3f}", f"{other / mine:.2f}×")
    Console(width=120).print(table)
    if arguments.profile:
        profile(batch)


def random_batch(count: int, side: int) -> Batch:
    """A batch of noise images, with random labels in blocks of 16×16 pixels. The first 16 rows are ignored."""
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (count, side // 16, side // 16), dtype=torch.int16)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, :16] = IGNORED
    infos = [ImageInfo(number, f"image {number}", side, side) for number in range(count)]
    return Batch(images, torch.full((count, 2), side), infos, SemanticTargets(labels))


def compare(
    ours: Any, theirs: Any, batch: Batch, formats: tuple[torch.memory_format, torch.memory_format], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median time in seconds of (ours, theirs), for the training step and for inference."""
    ours.to(memory_format=formats[0]), theirs.to(memory_format=formats[1])
    images = (batch.images.float() / 255).contiguous(memory_format=formats[1])
    labels = batch.targets.labels.long().where(batch.targets.labels != IGNORED, 255)
    batch.images = batch.images.contiguous(memory_format=formats[0])

    @torch.inference_mode()
    def predict_theirs() -> Tensor:
        return their_logits(theirs, images)[0].argmax(dim=1)

    ours.train(), theirs.train()
    step_ours = step(ours, lambda: sum(ours.loss(batch).values()))  # type: ignore[arg-type, return-value]
    step_theirs = step(theirs, lambda: their_loss(theirs, images, labels))
    seconds = {"training step": alternate(step_ours, step_theirs, rounds)}
    ours.eval(), theirs.eval()
    return seconds | {"inference": alternate(lambda: ours(batch), predict_theirs, rounds)}


def profile(batch: Batch) -> None:
    ours, _ = deeplabv3()
    ours.to(batch.images.device, memory_format=torch.channels_last)
    with torch.profiler.profile() as measured:
        sum(ours.loss(batch).values()).backward()
    print(measured.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


if __name__ == "__main__":
    main()
