"""The commands: the files that they write, and their exit status."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from loading import checkpoint_of
from pycocotools import mask as rle
from pycocotools.coco import COCO

import chordate
from chordate.cli import summary
from chordate.cli.main import main, parser
from chordate.config import load_config
from chordate.model_contracts import Metric
from chordate.registry import METRICS
from chordate.weights.checkpoint_folder import CheckpointFolder

CONFIG = "faster-rcnn_r18_fpn_demo_shapes"
FEW = ["train.epochs=1", "train_data.batch_size=8", "train_data.workers=0", "val_data.workers=0", "train.log_every=1"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory) -> Path:
    """The work dir of a training run of one short epoch."""
    work_dir = tmp_path_factory.mktemp("work")
    arguments = ["--data-root", str(shapes), "--work-dir", str(work_dir), "--cfg-options", *FEW]
    assert main(["train", CONFIG, *arguments]) == 0
    return work_dir


@pytest.fixture(scope="module")
def untrained(shapes, tmp_path_factory) -> Path:
    """The path of a checkpoint in our format, whose untrained model detects objects everywhere."""
    torch.manual_seed(0)
    classes = [c["name"] for c in json.loads((shapes / "annotations/val.json").read_text())["categories"]]
    model = chordate.build_model(CONFIG, classes=classes, pretrained=False)
    with torch.no_grad():
        model.box.cls_score.weight.normal_(0, 0.3)
        model.box.cls_score.bias[-1] = -10  # lowers the background logit, so that there are detections
    path = tmp_path_factory.mktemp("seer") / "seer.pt"
    torch.save(checkpoint_of(model), path)
    return path


def test_training_leaves_checkpoints_log_and_curve(trained):
    assert (trained / "best_bbox_AP.pt").is_file()
    assert (trained / (trained / "last_checkpoint").read_text().strip()).is_file()
    assert (trained / "training.png").stat().st_size > 1000
    rows = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert any("loss" in row for row in rows)


def test_test_writes_metrics_predictions_and_drawn_images(untrained, shapes, tmp_path, capsys):
    out, predictions, picture = tmp_path / "m.json", tmp_path / "p.json", tmp_path / "sheet.png"
    status = main([
        "test", CONFIG, str(untrained), "--data-root", str(shapes), "--out", str(out),
        "--report", str(tmp_path / "why"), "--predictions", str(predictions), "--picture", str(picture),
        "--cfg-options", "val_data.workers=0",
    ])  # fmt: skip
    assert status == 0
    report = json.loads((tmp_path / "why/report.json").read_text())
    assert report["bbox"]["numbers"]["AP"] == json.loads(out.read_text())["bbox_AP"]
    for name in ("precision_recall", "classes", "confusion", "errors"):
        assert (tmp_path / f"why/bbox_{name}.png").stat().st_size > 10_000
    assert 0 <= json.loads(out.read_text())["bbox_AP"] <= 1
    assert picture.stat().st_size > 10_000
    truth = COCO(str(shapes / "annotations/val.json"))
    records = json.loads(predictions.read_text())
    assert len(records) > 20
    assert len(truth.loadRes(str(predictions)).anns) == len(records)
    assert "circle" in capsys.readouterr().out  # in the table of metrics per class


def test_predict_draws_and_writes(untrained, shapes, tmp_path):
    picture = sorted((shapes / "val").glob("*"))[0]
    out = tmp_path / "drawn"
    assert main(["predict", CONFIG, str(untrained), str(picture), "--out", str(out), "--score-threshold", "0.2"]) == 0
    assert (out / f"{picture.stem}_prediction.png").is_file()
    rows = json.loads((out / "predictions.json").read_text())
    assert rows
    for row in rows:
        assert row["class"] in {"circle", "rectangle", "triangle", "star", "ring"} and row["score"] >= 0.2
        assert len(row["box"]) == 4


def test_predict_writes_masks_as_cocos_run_lengths(shapes, tmp_path):
    torch.manual_seed(0)
    config = tmp_path / "masks.py"
    config.write_text(f'base = "{CONFIG}"\nmodel = dict(mask=dict(type="MaskHead", convs=1, channels=16))\n')
    model = chordate.build_model(config, num_classes=2, pretrained=False).eval()
    torch.nn.init.normal_(model.box.cls_score.weight, std=0.3)
    torch.nn.init.normal_(model.mask.masks.weight, std=0.3)
    torch.save(checkpoint_of(model), tmp_path / "masks.pt")
    picture = sorted((shapes / "val").glob("*"))[0]
    out = tmp_path / "drawn"
    options = ["--precision", "fp32", "--score-threshold", "0.1"]
    assert main(["predict", str(config), str(tmp_path / "masks.pt"), str(picture), "--out", str(out), *options]) == 0
    (detections,) = chordate.predict(model, picture, score_threshold=0.1, precision="fp32")
    rows = json.loads((out / "predictions.json").read_text())
    assert len(rows) == len(detections) > 0 and detections.masks.any()
    for row, mask in zip(rows, detections.masks):
        np.testing.assert_array_equal(rle.decode(row["mask"]), mask.numpy())


def test_predict_reports_a_broken_image_and_goes_on_with_the_others(untrained, shapes, tmp_path, capsys):
    intact, source = sorted((shapes / "val").glob("*"))[:2]
    (tmp_path / "cut.jpg").write_bytes(source.read_bytes()[:400])
    out = tmp_path / "drawn"
    files = [str(tmp_path / "cut.jpg"), str(intact)]
    assert main(["predict", CONFIG, str(untrained), *files, "--out", str(out), "--score-threshold", "0.2"]) == 2
    output = capsys.readouterr()
    assert "on 1 image:" in output.out and f"{tmp_path}/cut.jpg: broken or truncated" in output.err
    assert {row["file"] for row in json.loads((out / "predictions.json").read_text())} == {str(intact)}
    assert [file.name for file in out.glob("*.png")] == [f"{intact.stem}_prediction.png"]


def test_predict_never_overwrites_an_image(untrained, shapes, tmp_path):
    """Covers output in the folder of an input image, and two images whose names differ only in the extension."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(sorted((shapes / "val").glob("*"))[0], tmp_path / folder / "x.jpg")
    (tmp_path / "a/x.jpg").rename(tmp_path / "a/x.png")
    before = (tmp_path / "a/x.png").read_bytes()
    files = [str(tmp_path / "a/x.png"), str(tmp_path / "b/x.jpg")]
    assert main(["predict", CONFIG, str(untrained), *files, "--out", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a/x.png").read_bytes() == before
    assert len(list((tmp_path / "a").glob("*_prediction.png"))) == 2


@METRICS.register_module()
class CountOnly(Metric):
    """A metric without a report or predictions; requesting either fails before the first batch."""

    def __init__(self, dataset):
        pass

    def update(self, predictions, batch):
        raise AssertionError("the evaluation has begun")

    def compute(self):
        raise AssertionError("the evaluation has begun")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--report", "--report: this metric has no report"),
        ("--predictions", "--predictions: CountOnly does not save predictions; implement its method save_predictions"),
    ],
)
def test_output_that_a_metric_cannot_write_is_refused_before_the_evaluation(
    option, message, untrained, shapes, tmp_path, capsys
):
    options = ["--data-root", str(shapes), "--cfg-options", "metric=CountOnly", "val_data.workers=0"]
    assert main(["test", CONFIG, str(untrained), option, str(tmp_path / "out"), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("chordate test:")]
    assert line.startswith(f"chordate test: {message}")


def test_a_mistake_leaves_the_files_of_earlier_runs_untouched(trained, shapes):
    before = {p.name: p.read_bytes() for p in trained.iterdir() if p.suffix in (".pt", ".jsonl")}
    arguments = ["--data-root", str(shapes), "--work-dir", str(trained), "--cfg-options", "optimizer.type=SDG"]
    assert main(["train", CONFIG, *arguments]) == 2
    assert any(name.endswith(".pt") for name in before)
    assert {name: (trained / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    "option", ["optimizer.type=SDG", "train.save_best=bbox_PA", "train_data.dataset.annotations=no.json"]
)
def test_a_failed_start_leaves_no_folder(option, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--data-root", str(shapes), "--cfg-options", *FEW, "model.backbone.pretrained=None", option]
    assert main(["train", CONFIG, *options]) == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "work_dirs/other").mkdir(parents=True)
    assert main(["train", CONFIG, *options]) == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "work_dirs", tmp_path / "work_dirs/other"]


@pytest.mark.parametrize(
    "tool", ["browse", "check", "convert", "convert_config", "train", "test", "predict", "summary"]
)
def test_every_command_is_also_a_script_in_tools(tool, tmp_path):
    command = [sys.executable, str(ROOT / f"tools/{tool}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and f"chordate {tool.replace('_', '-')}" in done.stdout


def test_a_first_start_with_resume_loads_the_pretrained_weights(shapes, tmp_path, capsys):
    """Job scripts always pass --resume; without a checkpoint, the backbone must still load its pretrained weights."""
    arguments = ["--data-root", str(shapes), "--work-dir", str(tmp_path), "--resume", "--cfg-options", *FEW]
    assert main(["train", CONFIG, *arguments, "model.backbone.pretrained=/no/such/weights.pth"]) == 2
    assert "/no/such/weights.pth" in capsys.readouterr().err


@pytest.mark.usefixtures("without_curves")  # test_training_leaves_checkpoints_log_and_curve checks the plot
def test_resuming_a_complete_training_in_any_folder_reports_that_it_is_complete(trained, shapes, tmp_path, capsys):
    last = trained / (trained / "last_checkpoint").read_text().strip()
    arguments = ["--data-root", str(shapes), "--work-dir", str(tmp_path), "--resume", str(last), "--cfg-options", *FEW]
    assert main(["train", CONFIG, *arguments]) == 0
    assert "iterations are done already" in capsys.readouterr().out


@pytest.mark.usefixtures("without_curves")  # test_training_leaves_checkpoints_log_and_curve checks the plot
def test_evaluation_can_be_switched_off(shapes, tmp_path):
    arguments = ["--data-root", str(shapes), "--work-dir", str(tmp_path), "--cfg-options", *FEW, "val_data=None"]
    assert main(["train", CONFIG, *arguments]) == 0
    assert (tmp_path / "epoch_1.pt").is_file()


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "run", lambda arguments: warnings.warn("the weights hold NaN", stacklevel=1))
    plain = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *args, **_: print(warnings.formatwarning(*args), end="")
        assert main(["summary", "resnet20_cifar10"]) == 0
    assert capsys.readouterr().out == "chordate summary: the weights hold NaN\n"
    assert warnings.formatwarning is plain


@pytest.mark.usefixtures("without_curves")  # test_training_leaves_checkpoints_log_and_curve checks the plot
def test_a_resume_looks_for_the_newest_checkpoint_once(trained, shapes, tmp_path, monkeypatch):
    work_dir = tmp_path / "work"
    shutil.copytree(trained, work_dir)
    (work_dir / "last_checkpoint").write_text("missing.pt\n")
    checkpoints: list[Path | None] = []
    newest = CheckpointFolder.newest
    monkeypatch.setattr(
        CheckpointFolder, "newest", lambda folder: checkpoints.append(newest(folder)) or checkpoints[-1]
    )
    arguments = ["--data-root", str(shapes), "--work-dir", str(work_dir), "--resume", "--cfg-options", *FEW]
    assert main(["train", CONFIG, *arguments]) == 0
    assert len(checkpoints) == 1
    log = max(work_dir.glob("*/train.log")).read_text()
    assert f"resumed from {checkpoints[0]}" in log and log.count("instead of epoch_<n>.pt") == 1


def test_options_may_be_dicts(capsys):
    options = (
        parser()
        .parse_args(
            [
                "train",
                CONFIG,
                "--cfg-options",
                "optimizer={'type': 'SGD', 'lr': 0.1}",
                "x=[{'a': None}]",
                "train.epochs=3",
            ]
        )
        .cfg_options
    )
    assert options == {"optimizer": {"type": "SGD", "lr": 0.1}, "x": [{"a": None}], "train.epochs": 3}
    del options["x"]
    assert load_config(CONFIG, options).optimizer.type == "SGD"
    calls = ["a=dict(type='X', b=dict(c=[1]))", "d=[dict(type='X')]", 'e={"f": true, "g": [null]}', "h=dict()"]
    options = parser().parse_args(["train", CONFIG, "--cfg-options", *calls]).cfg_options
    expected = {"a": {"type": "X", "b": {"c": [1]}}, "d": [{"type": "X"}], "e": {"f": True, "g": [None]}, "h": {}}
    assert options == expected
    unreadable = ("{'type': open('x')}", "{type: SGD}", "dict(open('x'))", "dict(**{'a': 1})", "[dict(a=dict)]")
    for broken in (f"optimizer={text}" for text in unreadable):
        with pytest.raises(SystemExit):
            parser().parse_args(["train", CONFIG, "--cfg-options", broken])
        assert f"--cfg-options {broken}: cannot be read; write numbers" in capsys.readouterr().err


def test_predict_checks_its_output_folder_before_the_checkpoint(tmp_path, shapes, capsys):
    out = tmp_path / "file"
    out.write_text("")
    image = str(next((shapes / "val").glob("*.jpg")))
    assert main(["predict", CONFIG, "missing.pt", image, "--out", str(out)]) == 2
    assert f"--out {out} is not a folder" in capsys.readouterr().err
