"""Counts the functions that a reader has to follow from COCO's JSON to a detector's loss.

Counts the distinct functions of this project that `sys.setprofile` records in `dataset[key]`, collation and
`model.loss`, for one sample and a Faster R-CNN with ResNet-50 and FPN on small generated images. Functions that run
only when the dataset and the model are built, or only at the first call, do not count. DETR's count by this rule is 60.

    python benchmarks/functions.py
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from chordate.config import load_config
from chordate.data.loader import build_dataset
from chordate.data.shapes import generate_shapes
from chordate.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("chordate", "backbones", "necks", "heads")
TRAIN_DATA = {
    "dataset": {"type": "CocoDataset", "annotations": "annotations/train.json", "images": "train"},
    "pipeline": [
        {"type": "ResizeShortestEdge", "size": 128, "max_size": 200},
        {"type": "RandomHorizontalFlip", "p": 1.0},
    ],
}
# Comprehensions and lambdas count as part of the enclosing function.
GENERATED = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<lambda>", "<module>")


def road(config: str = "faster-rcnn_r50_fpn_1x_coco") -> list[CodeType]:
    """The functions that are called to load one sample and compute its losses, in the order of their first call."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        generate_shapes(folder, train=2, val=1, size=64, seed=0)
        dataset = build_dataset(TRAIN_DATA, data_root=folder, training=True)
        spec: Any = load_config(config).model.to_dict()
        spec["backbone"]["pretrained"] = None
        model = MODELS.build(spec, meta=dataset.meta)

        def train() -> None:
            batch = dataset.collate([dataset[0, 0]], model.size_divisor)
            sum(model.loss(batch).values())

        train()  # the first call also imports modules and fills caches
        return entered(train)


def entered(run: Callable[[], Any]) -> list[CodeType]:
    """The distinct functions of the project that `run` calls, in the order of their first call."""
    codes: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            codes.setdefault(frame.f_code)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return [code for code in codes if code.co_name not in GENERATED and is_ours(code.co_filename)]


def is_ours(file: str) -> bool:
    path = Path(file).resolve()
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS


def main() -> None:
    rooms: dict[str, list[str]] = defaultdict(list)
    codes = road()
    for code in codes:
        path = Path(code.co_filename).resolve().relative_to(ROOT)
        room = "/".join(path.parts[:2] if path.parts[0] == "chordate" else path.parts[:1])
        rooms[room].append(f"{path.stem}.{code.co_qualname}")
    for room, names in rooms.items():
        print(f"{room}: {len(names)}")
        for name in names:
            print(f"    {name}")
    print(f"{len(codes)} functions from JSON to loss")


if __name__ == "__main__":
    main()
