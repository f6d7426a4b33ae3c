"""Runs the command lines of the documentation, with small data, random weights and one training step."""

import json
import re
import shutil
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from class_folders import write_folders
from doc_pages import blocks, commands, files, page, with_options

from chordate.cli.main import main
from chordate.data.coco_classes import COCO_CLASSES
from chordate.data.shapes import generate_shapes


def make_weights(path: Path) -> None:
    """Write random weights of a torchvision network; the file name starts with the network's name."""
    name = re.split(r"_coco|_random|-", path.name)[0]
    options = {"weights_backbone": None} if re.search("rcnn|retinanet", name) else {}
    torch.save(torchvision.models.get_model(name, weights=None, **options).state_dict(), path)


def make_coco(root: Path, shapes: Path) -> Path:
    """Copy the shapes dataset under COCO's file names, with COCO's 80 categories."""
    for split in ("train", "val"):
        shutil.copytree(shapes / split, root / f"{split}2017")
        content = json.loads((shapes / f"annotations/{split}.json").read_text())
        content["categories"] = [{"id": n, "name": name} for n, name in enumerate(COCO_CLASSES, 1)]
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return root


def make_imagenet(root: Path) -> Path:
    """Create ImageNet's folders: 1,000 classes per split, of which the first four contain an image."""
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(1000):
            folder = root / split / f"n{number:08}"
            folder.mkdir(parents=True)
            if number < 4:
                cv2.imwrite(str(folder / "a.jpg"), noise.integers(0, 256, (80, 90, 3), dtype=np.uint8))
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory of a test, with the datasets and images that the command lines name."""
    shapes = tmp_path / "data/shapes"
    generate_shapes(shapes, train=16, val=2, size=64, seed=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHORDATE_DATA", str(shapes))
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda self: self.server_close())
    for name in ("street.jpg", "dog.jpg", "a.jpg", "folder/b.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        cv2.imwrite(name, np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    make_coco(tmp_path / "coco", shapes)
    shutil.copytree(shapes, tmp_path / "cells")
    write_folders(tmp_path / "my_photos", {"train": 4, "val": 2}, side=40)
    return tmp_path


SMALL = "train_data.pipeline.0.size=64 val_data.pipeline.0.size=64"
ONE_STEP = "train.iterations=1 train.epochs=None train_data.workers=0 val_data.workers=0 model.backbone.pretrained=None"


def shortened(words: list[str]) -> list[str]:
    """The command line, changed to run fast: one training step, small images, no download, no fixed port."""
    stand_in = {"/data/coco": "coco", "/data/imagenet": "imagenet", "8000": "0"}
    words = [stand_in.get(word, re.sub(r"^torchvision://(.*)", r"\1_random.pth", word)) for word in words]
    if words[1] in ("summary", "list"):
        return words
    config = words[2]
    options = [] if config.startswith("my_") or "copypaste" in config else SMALL.split()
    if words[1] in ("train", "browse"):
        options += ["train_data.batch_size=2"]
    if words[1] == "train":
        options += ONE_STEP.split()
        if "--resume" in words:
            options[options.index("train.iterations=1")] = "train.iterations=2"
    if "imagenet" in config or "folder" in config:
        options = [option for option in options if "pipeline" not in option]
        options += [] if words[1] == "predict" else ["val_data.pipeline.0.size=64", "val_data.pipeline.1.size=64"]
    if words[1] in ("predict", "test", "features"):
        options = [option for option in options if not option.startswith("train")]
    if words[1] in ("test", "features"):
        options += ["val_data.workers=0"]
    return with_options(words, *options)


def run_page(name: str, folder: Path, capsys, caplog, *, prepare: Callable[[list[str]], list[str]] = shortened) -> str:
    """Run the `chordate` command lines of a page in order; returns what they print and log."""
    text = page(name)
    for file, content in files(text).items():
        (folder / file).write_text(content, encoding="utf-8")
    lines = [words for words in commands(text) if words[0] == "chordate"]
    assert lines
    for words in map(prepare, lines):
        for word in words:
            if word.endswith(".pth") and not Path(word).exists():
                make_weights(Path(word))
        assert main(words[1:]) == 0, (words, capsys.readouterr().err[-800:])
    printed = capsys.readouterr()
    return printed.out + printed.err + caplog.text


def promised(name: str) -> list[str]:
    """The lines of output that a page shows below its command lines."""
    lines = [line for block in blocks(page(name), "console") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("$ ", "http://"))]
