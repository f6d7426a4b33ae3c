"""`chordate test` on two ranks (gloo on the CPU) gives the metrics and detections of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from loading import checkpoint_of
from processes import run_ranks
from torch import nn

from chordate import build_model, predict
from chordate.cli.main import main
from chordate.data.shapes import CLASSES, generate_shapes

CONFIG = "faster-rcnn_r18_fpn_demo_shapes"
IMAGES = 11  # odd, so that the ranks get different numbers of images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained detector, initialized with a large std so that it outputs many detections."""
    torch.manual_seed(0)
    model = build_model(CONFIG, classes=CLASSES, pretrained=False)
    nn.init.normal_(model.box.cls_score.weight, std=1.0)
    nn.init.normal_(model.box.bbox_pred.weight, std=0.1)
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    torch.save(checkpoint_of(model), path)
    return path


@pytest.fixture(scope="module")
def shapes(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose ground truth is every third detection, so that there are true and false positives."""
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, train=1, val=IMAGES, size=80, seed=3)
    path = folder / "annotations/val.json"
    data = json.loads(path.read_text())
    model = build_model(CONFIG, checkpoint=checkpoint)
    data["annotations"] = []
    for image in data["images"]:
        (found,) = predict(model, folder / "val" / image["file_name"], precision="fp32")
        for (x1, y1, x2, y2), label in zip(found.boxes[::3].tolist(), found.labels[::3].tolist()):
            data["annotations"].append(
                {
                    "id": len(data["annotations"]) + 1, "image_id": image["id"], "iscrowd": 0,
                    "category_id": data["categories"][label]["id"], "area": (x2 - x1) * (y2 - y1),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )  # fmt: skip
    path.write_text(json.dumps(data))
    return folder


def arguments(checkpoint: Path, shapes: Path, folder: Path) -> list[str]:
    """Arguments with which `chordate test` writes metrics and detections to `folder`."""
    return [
        CONFIG, str(checkpoint), "--data-root", str(shapes), "--out", str(folder / "out.json"),
        "--predictions", str(folder / "predictions.json"), "--cfg-options", "val_data.batch_size=2",
    ]  # fmt: skip


def results(folder: Path) -> tuple[dict[str, float], list[dict]]:
    """The metrics and the detections that `chordate test` wrote."""
    return tuple(json.loads((folder / name).read_text()) for name in ("out.json", "predictions.json"))


def test_a_detector_evaluated_on_two_ranks_gets_the_metrics_and_detections_of_one(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert main(["test", *arguments(checkpoint, shapes, tmp_path / "one")]) == 0
    assert run_ranks(main, ["test", *arguments(checkpoint, shapes, tmp_path / "two")]) == [0, 0]
    (one, found), (two, found_by_two) = results(tmp_path / "one"), results(tmp_path / "two")
    assert len(found) > 5 * IMAGES  # enough detections to notice lost or duplicate ones
    assert 0 < one["bbox_AP"] < 1  # there are true and false positives
    assert two == pytest.approx(one, nan_ok=True)
    assert len(found_by_two) == len(found)
    assert {d["image_id"] for d in found_by_two} == {d["image_id"] for d in found}
