"""The README's examples work as written."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import chordate
from chordate.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
FILES = {block.split("\n", 1)[0][2:].strip(): block for block in BLOCKS if block.startswith("# ")}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_custom_backbone_can_be_trained_with_tools_train(folder, shapes, without_curves, monkeypatch):
    """`tools/train.py` trains a detector with the README's backbone; `chordate test` evaluates the best checkpoint."""
    options = ["train.epochs=1", "train_data.batch_size=8", "train_data.workers=0", "val_data.workers=0"]
    arguments = ["my_detector.py", "--data-root", str(shapes), "--cfg-options", *options]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["tools/train.py", *arguments])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(ROOT / "tools/train.py"), run_name="__main__")
    work_dir = folder / "work_dirs/my_detector"
    assert (work_dir / "last_checkpoint").is_file()
    best = work_dir / "best_bbox_AP.pt"
    out = folder / "metrics.json"
    assert main(["test", "my_detector.py", str(best), "--data-root", str(shapes), "--out", str(out)]) == 0
    assert "bbox_AP" in out.read_text()


def test_the_custom_backbone_is_about_ten_lines():
    lines = [line for line in FILES["my_backbone.py"].splitlines() if line.startswith("    ") and line.strip()]
    assert len(lines) <= 16


def test_the_dataset_config_inherits_from_its_base(folder):
    cfg = chordate.load_config(folder / "cells.py")
    assert cfg.train_data.dataset.annotations == "annotations/train.json"
    assert cfg.train.epochs == 24
    assert cfg.model == chordate.load_config("faster-rcnn_r50_fpn_1x_coco").model


def test_every_name_in_the_readme_exists():
    for name in re.findall(r"(?<!/)\bfaster-rcnn_[\w*-]+", README):
        assert chordate.list_models(name), name
    for link in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_python_example_runs(folder, monkeypatch):
    """The code block with `predict` runs on a noise image, with constant weights in torchvision's format and ours."""
    import numpy as np
    import torch
    from loading import checkpoint_of
    from PIL import Image
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    def small(state):
        """Constant weights with the names and shapes of `state`, which take less time than random ones."""
        return {name: torch.full(value.shape, 0.01).to(value.dtype) for name, value in state.items()}

    monkeypatch.chdir(folder)
    (block,) = [b for b in BLOCKS if "predict(" in b]
    with torch.device("meta"):
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        cells = chordate.build_model("cells.py", classes=["red", "white"], pretrained=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: folder)
    (folder / "checkpoints").mkdir()
    torch.save(small(theirs.state_dict()), "checkpoints/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    noise = np.random.default_rng(0).integers(0, 256, (16, 480, 3), dtype=np.uint8)
    Image.fromarray(noise).save("street.jpg")  # resized to 44×1333 pixels; a square would become 800×800
    (trained,) = re.findall(r'"(work_dirs/cells/.*?)"', block)
    Path(trained).parent.mkdir(parents=True)
    torch.save({**checkpoint_of(cells), "model": small(cells.state_dict())}, trained)
    names: dict = {}
    exec(block, names)
    assert list(names["backbone"].out_features) == ["c3", "c4", "c5"]
    assert names["cells"].classes == ("red", "white")
