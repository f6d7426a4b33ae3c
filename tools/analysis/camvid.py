"""CamVid from scratch: three of Chordate's segmenters, and torchvision's DeepLabV3 in a plain loop.

All have a ResNet-18, and are trained with the recipe of `configs/_base_/schedules/camvid_30e.py` and the augmentation
of `configs/_base_/datasets/camvid.py`, on a GPU if there is one:

    python tools/analysis/camvid.py --data-root camvid [--epochs 30] [--only torchvision unet_r18_camvid]

The same command resumes an interrupted run, and skips finished ones; `--plot` only plots and prints the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.transforms import v2

from chordate.cli.main import main
from chordate.data.transforms import PhotometricDistortion

OURS = ("deeplabv3plus_r18_camvid", "semantic-fpn_r18_camvid", "unet_r18_camvid")
YARDSTICK = "torchvision"
COLORS = dict(zip((*OURS, YARDSTICK), ("#1f4e9c", "#2a9d6f", "#d99a2b", "0.35")))
SIZE = (360, 480)  # height and width
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES, IGNORED = 11, 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, RATE, WEIGHT_DECAY, POWER, WARMUP = 8, 1e-3, 0.01, 0.9, 50  # as in camvid_30e.py


def train_ours(name: str, arguments: argparse.Namespace) -> None:
    """Train one of our segmenters, and evaluate its last weights on the validation and the test images."""
    folder = arguments.work_dir / name
    settings = ["model.backbone.pretrained=None", f"train.epochs={arguments.epochs}"]
    data = ["--data-root", arguments.data_root]
    if main(["train", name, *data, "--work-dir", str(folder), "--resume", "--cfg-options", *settings]):
        sys.exit(1)
    for split in ("val", "test"):
        sets = [f"val_data.dataset.images={split}", f"val_data.dataset.labels={split}annot"]
        outputs = ["--out", str(folder / f"{split}.json"), "--picture", str(folder / f"{split}.png")]
        checkpoint = str(folder / f"epoch_{arguments.epochs}.pt")
        if main(["test", name, checkpoint, *data, *outputs, "--cfg-options", *settings, *sets]):
            sys.exit(1)


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """Images `[3, H, W]`, normalized, and their labels `[H, W]` int64."""

    def __init__(self, root: Path, split: str, transforms: list[Any]):
        self.images = sorted((root / split).glob("*.jpg"))
        self.labels = root / f"{split}annot"
        normalize = [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.Normalize(MEAN, STD)]
        self.transforms = v2.Compose([*transforms, *normalize])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        file = self.images[index]
        labels = torch.from_numpy(np.array(PIL.Image.open(self.labels / f"{file.stem}.png")))
        labels = labels.where(labels < CLASSES, IGNORED)
        image = tv_tensors.Image(PIL.Image.open(file).convert("RGB"))
        image, mask = self.transforms(image, tv_tensors.Mask(labels))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()


def torchvision_deeplabv3() -> DeepLabV3:
    """torchvision's DeepLabV3 with an auxiliary head, on its ResNet-18 at output stride 16.

    torchvision's BasicBlock cannot be built with dilation, so the last stage is dilated after it is built.
    """
    network = resnet18(weights=None)
    for conv in (module for module in network.layer4.modules() if isinstance(module, nn.Conv2d)):
        conv.stride = (1, 1)
        if conv.kernel_size == (3, 3):
            conv.padding = conv.dilation = (2, 2)
    body = IntermediateLayerGetter(network, {"layer4": "out", "layer3": "aux"})
    return DeepLabV3(body, DeepLabHead(512, CLASSES), FCNHead(256, CLASSES))


def train_yardstick(arguments: argparse.Namespace) -> None:
    """Train torchvision's DeepLabV3 in a plain loop, with the same recipe, and evaluate it after each epoch."""
    folder, root = arguments.work_dir / YARDSTICK, Path(arguments.data_root)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = torchvision_deeplabv3().to(DEVICE)
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
    augmentation = [
        v2.RandomResize(SIZE[0] // 2, SIZE[0] * 2 + 1),
        v2.RandomCrop(SIZE, pad_if_needed=True, fill=fill),
        v2.RandomHorizontalFlip(),
        PhotometricDistortion(),
    ]
    loader = DataLoader(CamVid(root, "train", augmentation), BATCH, shuffle=True, drop_last=True, num_workers=2)
    total = arguments.epochs * len(loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP) * (1 - step / total) ** POWER

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    curve: list[list[float]] = []
    state = folder / "last.pt"
    if state.is_file():
        weights, momenta, steps, curve = torch.load(state, map_location=DEVICE)
        model.load_state_dict(weights), optimizer.load_state_dict(momenta), schedule.load_state_dict(steps)
    for epoch in range(len(curve) + 1, arguments.epochs + 1):
        model.train()
        for images, labels in loader:
            logits, labels = model(images.to(DEVICE)), labels.to(DEVICE)
            losses = [F.cross_entropy(logits[key], labels, ignore_index=IGNORED) for key in ("out", "aux")]
            optimizer.zero_grad()
            (losses[0] + 0.4 * losses[1]).backward()
            optimizer.step()
            schedule.step()
        curve.append([epoch * len(loader), mean_iou(model, root, "val")])
        print(f"{YARDSTICK}, epoch {epoch}: mIoU {curve[-1][1]:.3f}", flush=True)
        torch.save([model.state_dict(), optimizer.state_dict(), schedule.state_dict(), curve], state)
    (folder / "curve.json").write_text(json.dumps(curve))
    (folder / "val.json").write_text(json.dumps({"mIoU": curve[-1][1]}))
    (folder / "test.json").write_text(json.dumps({"mIoU": mean_iou(model, root, "test")}))


@torch.inference_mode()
def mean_iou(model: nn.Module, root: Path, split: str) -> float:
    """The mean IoU over the classes of a split, from the confusion matrix of all its pixels at the original size."""
    model.eval()
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for images, labels in DataLoader(CamVid(root, split, []), 4):
        logits = model(images.to(DEVICE))["out"].cpu()
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        counted = labels != IGNORED
        pairs = labels[counted] * CLASSES + logits.argmax(dim=1)[counted]
        confusion += torch.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    hits = confusion.diag()
    present = confusion.sum(dim=1) > 0
    return float((hits / (confusion.sum(dim=0) + confusion.sum(dim=1) - hits))[present].mean())


def finished(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Names and folders of the networks whose training is finished."""
    for name in (*OURS, YARDSTICK):
        folder = arguments.work_dir / name
        if (folder / "test.json").is_file():
            yield name, folder


def curve(name: str, folder: Path) -> list[list[float]]:
    """Pairs of iteration and validation mIoU."""
    if name == YARDSTICK:
        points: list[list[float]] = json.loads((folder / "curve.json").read_text())
        return points
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [[record["iteration"], record["mIoU"]] for record in records if record["mode"] == "val"]


def show(arguments: argparse.Namespace) -> None:
    """Print the mIoU of every finished network, and plot the curves."""
    table = Table("network", *(f"{split} mIoU" for split in ("val", "test")))
    figure = Figure(figsize=(8, 4.6), dpi=130, layout="constrained")
    axis = figure.subplots()
    for name, folder in finished(arguments):
        values = [json.loads((folder / f"{split}.json").read_text())["mIoU"] for split in ("val", "test")]
        table.add_row(name, *(f"{value:.3f}" for value in values))
        axis.plot(*np.array(curve(name, folder)).T, color=COLORS[name], lw=2, label=f"{name}: {values[0]:.3f}")
    axis.set(title="CamVid from scratch", xlabel="iteration", ylabel="validation mIoU", ylim=(0, None))
    axis.grid(color="0.92", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(arguments.work_dir / "camvid.png")
    Console().print(table)


def camvid() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", required=True, help="folder with train/, trainannot/, val/, …")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", nargs="+", default=[*OURS, YARDSTICK], metavar="NAME", choices=[*OURS, YARDSTICK])
    parser.add_argument("--plot", action="store_true", help="only plot and print the results so far")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/camvid"))
    arguments = parser.parse_args()
    done = dict(finished(arguments))
    for name in () if arguments.plot else arguments.only:
        if name in done:
            continue
        train_yardstick(arguments) if name == YARDSTICK else train_ours(name, arguments)
    show(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(camvid())
