"""`chordate train` fine-tunes on a folder of photos, from torchvision's weights or those of another classifier."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from backbone_referee import randomize
from class_folders import write_folders

import chordate
from chordate.cli.main import main
from chordate.config import load_config
from chordate.data import TrainValFolder

pytestmark = pytest.mark.usefixtures("without_curves")
SMALL = [
    "model.backbone.type=resnet18",
    "train_data.pipeline.0.size=32",
    "val_data.pipeline.0.size=36",
    "val_data.pipeline.1.size=32",
    "train_data.batch_size=16",
    "train_data.workers=0",
    "val_data.workers=0",
    "train.log_every=1",
    "train.keep=1",
    "train.tensorboard=False",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A checkpoint of torchvision's ResNet-18 with random weights and 1000 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(randomize(torchvision.models.resnet18(weights=None)).state_dict(), path)
    return path


def finetune(photos: Path, out: Path, pretrained: str, *options: str) -> list[dict]:
    """Train `resnet50_finetune_folder` with a ResNet-18 on a folder; returns the records of `log.jsonl`."""
    settings = [*SMALL, f"model.backbone.pretrained={pretrained}", *options]
    arguments = ["--data-root", str(photos), "--work-dir", str(out), "--cfg-options", *settings]
    assert main(["train", "resnet50_finetune_folder", *arguments]) == 0
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tuned(weights, tmp_path_factory) -> tuple[Path, list[dict]]:
    """Output folder and log records of a run on three class folders that are not split into train/ and val/."""
    root = tmp_path_factory.mktemp("tuned")
    write_folders(root, {"my_photos": 20}, side=40)
    once = ["train.epochs=5", "train.eval_every=5", "train.save_every=5"]
    return root / "run", finetune(root / "my_photos", root / "run", f"file://{weights}", *once)


def test_one_command_trains_a_classifier_on_a_folder_of_photos(tuned):
    run, log = tuned
    sizes = {"val_data.pipeline.0.size": 36, "val_data.pipeline.1.size": 32}
    config = load_config("resnet50_finetune_folder", {"model.backbone.type": "resnet18", **sizes})
    model = chordate.build_model(config, checkpoint=run / "best_top1.pt")
    held_out = TrainValFolder("val", data_root=run.parent / "my_photos")
    files = [held_out.images / file for file in held_out.files]
    predicted = [
        model.classes[prediction.top(1)[0][0]] for prediction in chordate.predict(model, files, precision="fp32")
    ]
    right = [name == file.parent.name for name, file in zip(predicted, files, strict=True)]
    assert sum(right) / 12 == max(line["top1"] for line in log if line["mode"] == "val") >= 0.8


def test_frozen_stages_keep_torchvisions_weights_and_the_others_learn_more_slowly_than_the_head(tuned, weights):
    run, _ = tuned
    text = "".join(path.read_text() for path in run.rglob("*.log"))
    assert "resnet18.pth (torchvision): 120 tensors loaded" in text
    # The learning rates are scaled from batch size 32 to 16.
    assert "lr 0.0005, weight decay 0.05" in text and "lr 5e-05, weight decay 0.05" in text
    before = torch.load(weights, weights_only=True)
    after = torch.load(run / "best_top1.pt", weights_only=True)["model"]
    for name, tensor in before.items():
        if name.startswith("fc") or not tensor.is_floating_point():
            continue
        frozen = name.startswith(("conv1", "bn1", "layer1"))
        assert torch.equal(after[f"backbone.{name}"], tensor) == frozen, name


def test_the_backbone_can_be_initialized_from_a_classifier_of_other_classes(tuned, tmp_path):
    run, _ = tuned
    write_folders(tmp_path, {"train": 4, "val": 2}, side=40)
    for split in ("train", "val"):
        (tmp_path / split / "blue").rename(tmp_path / split / "sky")
        (tmp_path / split / "green").rename(tmp_path / split / "wood")
        for picture in (tmp_path / split / "red").iterdir():
            picture.rename(tmp_path / split / "sky" / f"red_{picture.name}")
        (tmp_path / split / "red").rmdir()
    options = ["train.epochs=1", "optimizer.type=SGD"]  # its checkpoints are smaller than those of AdamW
    finetune(tmp_path, tmp_path / "run", str(run / "best_top1.pt"), *options)
    saved = torch.load(tmp_path / "run/best_top1.pt", weights_only=True)
    assert saved["meta"]["classes"] == ["sky", "wood"]
    frozen = torch.load(run / "best_top1.pt", weights_only=True)["model"]["backbone.layer1.0.conv1.weight"]
    assert torch.equal(saved["model"]["backbone.layer1.0.conv1.weight"], frozen)


def test_fine_tuning_without_a_val_folder_is_a_one_line_error(tmp_path, capsys):
    (tmp_path / "train/cat").mkdir(parents=True)
    assert main(["train", "resnet50_finetune_folder", "--data-root", str(tmp_path)]) == 2
    assert "has train/ but no val/" in capsys.readouterr().err
