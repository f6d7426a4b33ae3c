"""Commands on semantic segmentation: a small model with two classes is trained and tested; predictions are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from chordate.cli.main import main

pytestmark = pytest.mark.usefixtures("without_curves")
CONFIG = """
_dataset = dict(type="SemanticFolder", classes=["dark", "light"])
model = dict(
    type="SemanticSegmenter",
    backbone=dict(type="resnet18", base_channels=8, out=["c2", "c3"]),
    head=dict(type="DeepLabV3PlusHead", channels=32, low_channels=16, rates=[1, 2], aspp_dropout=0.0),
    auxiliary=dict(type="FCNHead", level="c2"),
)
train_data = dict(
    dataset=dict(images="images", labels="labels", **_dataset),
    pipeline=[dict(type="RandomCrop", size=40, pad_if_needed=True), dict(type="RandomHorizontalFlip")],
    batch_size=4,
    workers=0,
)
val_data = dict(dataset=dict(images="images", labels="labels", **_dataset), batch_size=3, workers=0)
optimizer = dict(type="AdamW", lr=3e-3, base_batch_size=4)
schedule = dict(type="poly")
train = dict(iterations=40, eval_every=40, save_every=40, save_best="mIoU", tensorboard=False)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a config, images of a light rectangle on a dark background, and label images whose top three rows
    are ignored."""
    root, random = tmp_path_factory.mktemp("semantic"), np.random.default_rng(0)
    (root / "colors.py").write_text(CONFIG)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number in range(8):
        height, width = random.integers(40, 70, 2)
        labels = np.zeros((height, width), np.uint8)
        y, x = random.integers(4, 20, 2)
        labels[y : y + 20, x : x + 18] = 1
        image = (np.where(labels[..., None] > 0, 200, 50) + random.integers(-20, 20, (height, width, 3))).astype(
            np.uint8
        )
        labels[:3] = 255
        cv2.imwrite(str(root / f"images/{number}.png"), image)
        cv2.imwrite(str(root / f"labels/{number}.png"), labels)
    return root


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The work dir of the training run."""
    arguments = ["train", str(folder / "colors.py"), "--data-root", str(folder), "--work-dir", str(folder / "run")]
    assert main(arguments) == 0
    return folder / "run"


def test_training_learns_the_classes(trained):
    records = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert records[-1]["mIoU"] > 0.75  # predicting the dark class everywhere gives 0.44
    assert {"semantic", "auxiliary_semantic"} <= records[0].keys()


def test_testing_the_best_checkpoint_prints_each_class(trained, folder, capsys):
    command = ["test", str(folder / "colors.py"), str(trained / "best_mIoU.pt"), "--data-root", str(folder)]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "dark" in table and "light" in table and "IoU / %" in table


def test_a_report_is_written(trained, folder, tmp_path):
    command = ["test", str(folder / "colors.py"), str(trained / "best_mIoU.pt"), "--data-root", str(folder)]
    options = ["--report", str(tmp_path), "--cfg-options", "metric.type=SemanticMetric", "metric.boundary=0.02"]
    options.append("model.tta.flip=True")
    assert main([*command, *options]) == 0
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["numbers"]["mIoU"] > 0.75 and content["confusion"]["classes"] == ["dark", "light"]
    assert {path.name for path in tmp_path.glob("*.png")} == {"classes.png", "confusion.png", "worst.png"}


def test_predictions_are_written_with_the_ids_of_the_label_files(trained, folder, tmp_path, capsys):
    """Images of the same name in different folders have separate PNGs of predictions."""
    names = {}
    for number in range(4):
        names[number] = f"{'east' if number % 2 else 'west'}/{number // 2}.png"
        for kind in ("images", "labels"):
            pixels = cv2.imread(str(folder / f"{kind}/{number}.png"))
            if kind == "labels":
                pixels = np.array([7, 300, 65535], np.uint16)[np.minimum(pixels[..., 0], 2)]
            (tmp_path / kind / names[number]).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / kind / names[number]), pixels)
    command = ["test", str(folder / "colors.py"), str(trained / "best_mIoU.pt"), "--data-root", str(tmp_path)]
    options = ["--cfg-options", "val_data.dataset.ids=[7,300]", "val_data.dataset.ignored_ids=[65535]"]
    for _ in range(2):
        assert main([*command, "--predictions", str(tmp_path / "out"), *options]) == 0
    for name in names.values():
        labels, predicted = (
            cv2.imread(str(tmp_path / kind / name), cv2.IMREAD_UNCHANGED) for kind in ("labels", "out")
        )
        assert predicted.shape == labels.shape and set(np.unique(predicted)) == {7, 300}
        assert (predicted == labels)[labels != 65535].mean() > 0.85
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["0.png", "0.png", "1.png", "1.png"]
    assert main([*command, "--predictions", str(tmp_path / "out.json"), *options]) == 2
    assert "SemanticMetric writes one PNG per image; name a folder" in capsys.readouterr().err


def test_predicting_writes_the_classes_and_a_drawing(trained, folder, tmp_path):
    command = ["predict", str(folder / "colors.py"), str(trained / "best_mIoU.pt"), str(folder / "images/0.png")]
    assert main([*command, "--out", str(tmp_path / "drawn")]) == 0
    (record,) = json.loads((tmp_path / "drawn/predictions.json").read_text())
    fractions = {row["class"]: row["fraction"] for row in record["classes"]}
    light = (cv2.imread(str(folder / "labels/0.png"), cv2.IMREAD_GRAYSCALE) == 1).mean()
    assert fractions["light"] == pytest.approx(light, abs=0.05)
    assert cv2.imread(str(tmp_path / "drawn/0_prediction.png")) is not None


def test_samples_can_be_browsed_and_the_model_summarized(folder, tmp_path, capsys):
    config = str(folder / "colors.py")
    assert main(["browse", config, "--data-root", str(folder), "--out", str(tmp_path), "--count", "4"]) == 0
    assert "2 classes" in (tmp_path / "index.html").read_text()
    assert main(["summary", config]) == 0
    assert "512×1024" in capsys.readouterr().out


def test_a_first_image_without_labels_does_not_keep_training_from_starting(folder, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes((folder / name / f"{number}.png").read_bytes())
    first = cv2.imread(str(folder / "labels/0.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "labels/0.png"), np.full_like(first, 255))
    options = ["--cfg-options", "train.iterations=1", "train.eval_every=1", "train.save_every=1"]
    command = ["train", str(folder / "colors.py"), "--data-root", str(tmp_path), "--work-dir", str(tmp_path / "run")]
    assert main([*command, *options]) == 0
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert 0 <= records[-1]["mIoU"] <= 1
