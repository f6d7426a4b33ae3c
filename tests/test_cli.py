"""The commands: what they leave behind, their exit status, and one clear line for a user's mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from chordate.cli.main import main

CONFIG = "faster-rcnn_r18_fpn_demo_shapes"
FEW = ["train.epochs=1", "train_data.batch_size=4", "train_data.workers=0", "val_data.workers=0", "train.log_every=1"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory) -> Path:
    """A work dir after one short epoch."""
    work_dir = tmp_path_factory.mktemp("work")
    arguments = ["--data-root", str(shapes), "--work-dir", str(work_dir), "--cfg-options", *FEW]
    assert main(["train", CONFIG, *arguments]) == 0
    return work_dir


def test_training_leaves_checkpoints_log_and_curve(trained):
    assert (trained / "best_bbox_AP.pt").is_file()
    assert (trained / (trained / "last_checkpoint").read_text().strip()).is_file()
    assert (trained / "training.png").stat().st_size > 1000
    rows = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert any("loss" in row for row in rows)


def test_test_writes_metrics_predictions_and_pictures(trained, shapes, tmp_path, capsys):
    out, predictions, picture = tmp_path / "m.json", tmp_path / "p.json", tmp_path / "sheet.png"
    status = main([
        "test", CONFIG, str(trained / "best_bbox_AP.pt"), "--data-root", str(shapes), "--out", str(out),
        "--predictions", str(predictions), "--picture", str(picture), "--cfg-options", "val_data.workers=0",
    ])  # fmt: skip
    assert status == 0
    assert 0 <= json.loads(out.read_text())["bbox_AP"] <= 1
    assert picture.stat().st_size > 10_000
    truth = COCO(str(shapes / "annotations/val.json"))
    found = json.loads(predictions.read_text())
    if found:
        truth.loadRes(str(predictions))
    assert "circle" in capsys.readouterr().out  # the table names the classes


def test_predict_draws_and_writes(trained, shapes, tmp_path):
    picture = sorted((shapes / "val").glob("*"))[0]
    out = tmp_path / "drawn"
    arguments = [CONFIG, str(trained / "best_bbox_AP.pt"), str(picture), "--out", str(out), "--score-threshold", "0.1"]
    assert main(["predict", *arguments]) == 0
    assert (out / f"{picture.stem}.png").is_file()
    for row in json.loads((out / "detections.json").read_text()):
        assert row["class"] in {"circle", "rectangle", "triangle", "star", "ring"} and row["score"] >= 0.1


MISTAKES = [
    (["train", "faster-rcnn_r50_fpn_1x_koko"], 'did you mean "faster-rcnn_r50_fpn_1x_coco"'),
    (["train", CONFIG, "--data-root", "/no/such/folder"], "/no/such/folder"),
    (["train", CONFIG, "--cfg-options", "optimiser.lr=1"], 'did you mean "optimizer"'),
    (["train", CONFIG, "--cfg-options", "model.backbone.type=Resnet50"], 'did you mean "resnet50"'),
    (["train", CONFIG, "--cfg-options", "optimizer.type=SDG"], 'did you mean "SGD"'),
    (["train", CONFIG, "--cfg-options", "schedule.type=steps"], 'did you mean "step"'),
    (["train", CONFIG, "--cfg-options", "train.epoch=3"], 'did you mean "epochs"'),
    (["train", CONFIG, "--cfg-options", "train_data.batchsize=3"], 'did you mean "batch_size"'),
    (["train", CONFIG, "--cfg-options", "train.save_best=bbox_PA"], 'did you mean "bbox_AP"'),
    (["train", CONFIG, "--cfg-options", "train_data.dataset.classes=[circel]"], 'did you mean "circle"'),
    (["test", CONFIG, "no_such_checkpoint.pth"], "no_such_checkpoint.pth"),
    (["predict", CONFIG, "no_such_checkpoint.pth", "a.jpg"], "a.jpg"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a)[-60:] for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(arguments, message, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHORDATE_DATA", str(shapes))
    extra = ["train_data.workers=0", "val_data.workers=0"]
    if arguments[0] == "train":
        arguments = [*arguments, *extra] if "--cfg-options" in arguments else [*arguments, "--cfg-options", *extra]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith(f"chordate {arguments[0]}:")]
    assert len(errors) == 1 and message in errors[0]
    assert not any("Traceback" in line for line in lines)


def test_a_mistake_loses_nothing(trained, shapes):
    before = sorted(p.name for p in trained.iterdir())
    arguments = ["--data-root", str(shapes), "--work-dir", str(trained), "--cfg-options", "optimizer.type=SDG"]
    assert main(["train", CONFIG, *arguments]) == 2
    assert {p for p in before if p.endswith(".pth")} <= {p.name for p in trained.iterdir()}


@pytest.mark.parametrize("tool", ["train", "test", "predict", "summary"])
def test_every_command_is_a_tool_too(tool, tmp_path):
    command = [sys.executable, str(ROOT / f"tools/{tool}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and f"chordate {tool}" in done.stdout


def test_a_first_start_with_resume_loads_the_pretrained_weights(shapes, tmp_path, capsys):
    """A job script always says --resume: with nothing to go on from, the backbone must not start at random."""
    arguments = ["--data-root", str(shapes), "--work-dir", str(tmp_path), "--resume", "--cfg-options", *FEW]
    assert main(["train", CONFIG, *arguments, "model.backbone.pretrained=/no/such/weights.pth"]) == 2
    assert "/no/such/weights.pth" in capsys.readouterr().err
