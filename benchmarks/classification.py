"""Benchmark of ResNet-50 classification against torchvision: the training step and the input pipeline, separately.

Training: our ImageClassifier on uint8 images, against torchvision's ResNet-50 in a plain loop on normalized floats.
Both sides have the same weights, layout, precision and optimizer, and run alternately in one process.

Loading: our ImageFolder and loader against `torchvision.datasets.ImageFolder` and a plain DataLoader. Both sides have
the same v2 transforms (RandomResizedCrop 224, flip) and read the same generated JPEGs of ImageNet's most common size,
alternately.

    python benchmarks/classification.py [--batch 32 --rounds 7 --precision bf16 --eager] [--images 600 --workers 2]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from timing import alternate
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import chordate
from chordate.data.loader import build_dataset, build_loader
from chordate.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from chordate.structures import Batch, ClassTargets, ImageInfo

SIDE = 224
HEIGHT, WIDTH = 375, 500  # ImageNet's most common size


def training_steps(device: torch.device, batch: int, precision: str, compiled: bool) -> tuple[Any, Any]:
    """Training steps of our model and of torchvision's; a step goes from a batch on the device to updated weights."""
    theirs: Any = torchvision.models.resnet50(weights=None)
    ours: Any = chordate.build_model({"type": "ImageClassifier", "backbone": "resnet50"}, num_classes=1000)
    chordate.load_checkpoint(ours, theirs.state_dict())
    images = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 1000, (batch,), device=device)
    mean, deviation = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    floats = ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)
    sizes = torch.full((batch, 2), SIDE, device=device)
    infos = [ImageInfo(i, f"image {i}", SIDE, SIDE) for i in range(batch)]
    images = images.contiguous(memory_format=torch.channels_last)
    seen = Batch(images, sizes, infos, ClassTargets(labels))
    for model in (ours, theirs):
        model.to(device, memory_format=torch.channels_last).train()
    run_ours, run_theirs = (torch.compile(m) if compiled else m for m in (ours, theirs))
    criterion = torch.nn.CrossEntropyLoss()

    def step(model: Any, loss: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                value = loss()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()

        return run

    return step(ours, lambda: run_ours(seen)["cls"]), step(theirs, lambda: criterion(run_theirs(floats), labels))


def write_images(root: Path, count: int) -> None:
    """Write `count` JPEGs of coarse and fine noise to ten class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (HEIGHT // 25, WIDTH // 25, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def loaders(root: Path, batch: int, workers: int) -> tuple[Iterable[Any], Iterable[Any]]:
    """Our loader, and a DataLoader of torchvision's ImageFolder; both yield batches of uint8 crops."""
    config = {
        "dataset": {"type": "ImageFolder", "images": "train"},
        "pipeline": [{"type": "RandomResizedCrop", "size": SIDE, "antialias": True}, {"type": "RandomHorizontalFlip"}],
        "batch_size": batch,
        "workers": workers,
    }
    dataset = build_dataset(config, data_root=root, training=True, seed=0)
    ours = build_loader(dataset, config, training=True)
    transform = v2.Compose([v2.PILToTensor(), v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip()])
    folder = torchvision.datasets.ImageFolder(str(root / "train"), transform)
    theirs: Any = DataLoader(
        folder, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    return ours, theirs


def epoch(loader: Any) -> int:
    """Iterate over a loader once; returns the number of images."""
    return sum(len(batch.images) if isinstance(batch, Batch) else len(batch[0]) for batch in loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--eager", action="store_true", help="do not compile the models")
    parser.add_argument("--images", type=int, default=600, help="number of JPEGs to load")
    parser.add_argument("--workers", type=int, default=2, help="number of loader processes")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(title=f"{device}, batches of {arguments.batch}, median of {arguments.rounds}")
    for column in ("work", "ours, images/s", "torchvision, images/s", "ratio"):
        table.add_column(column, justify="left" if column == "work" else "right")

    def row(work: str, images: float, runs: tuple[Any, Any]) -> None:
        mine, other = alternate(*runs, arguments.rounds)
        table.add_row(work, f"{images / mine:.1f}", f"{images / other:.1f}", f"{other / mine:.2f}×")

    how = f"{arguments.precision}, channels-last, {'eager' if arguments.eager else 'compiled'}"
    steps = training_steps(device, arguments.batch, arguments.precision, not arguments.eager)
    row(f"ResNet-50 training step ({how})", arguments.batch, steps)
    with tempfile.TemporaryDirectory() as folder:
        images = arguments.images // arguments.batch * arguments.batch  # so that both libraries load only full batches
        write_images(Path(folder) / "train", images)
        ours, theirs = loaders(Path(folder), arguments.batch, arguments.workers)
        row(f"loading {WIDTH}×{HEIGHT} JPEGs ({arguments.workers} workers)", images,
            (lambda: epoch(ours), lambda: epoch(theirs)))  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
