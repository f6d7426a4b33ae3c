"""Commands on panoptic segmentation: models are trained on the generated shapes and tested; predictions are drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from backbone_referee import slow
from doc_commands import folder, run_page
from doc_pages import with_options

import chordate
from chordate.cli.main import main
from chordate.config import load_config
from chordate.data import SemanticFolder
from chordate.data.loader import build_dataset
from chordate.data.shapes import CLASSES, generate_shapes
from chordate.data.shapes_colors import BACKGROUNDS

__all__ = ["folder"]  # an imported fixture; `__all__` keeps the linter from removing the import
pytestmark = pytest.mark.usefixtures("without_curves")
SMALL = """
_small = [dict(type="Resize", size=[64, 64])]  # otherwise, images are predicted at 800 px
"""
FPN = """
base = "panoptic-fpn_r18_fpn_shapes"
schedule = dict(warmup_iters=2)
val_data = dict(pipeline=_small)
model = dict(backbone=dict(base_channels=8), merge=dict(score_threshold=0.3))
"""
DEEPLAB = """
_narrow = dict(channels=32, aspp_channels=32, rates=[1, 2])
_dataset = dict(type="CocoPanoptic")
model = dict(
    type="PanopticDeepLab",
    backbone=dict(type="resnet18", base_channels=8, output_stride=16, out=["c2", "c3", "c5"]),
    semantic=dict(type="PanopticDeepLabHead", **_narrow),
    center=dict(type="CenterOffsetHead", sigma=4.0, **_narrow),
    stuff_area=100,
)
train_data = dict(dataset=dict(annotations="annotations/panoptic_train.json", images="train", **_dataset))
val_data = dict(dataset=dict(annotations="annotations/panoptic_val.json", images="val", **_dataset))
optimizer = dict(type="AdamW", lr=3e-3, base_batch_size=8)
_stuff = ["gradient", "stripes", "checkerboard", "clouds"]
fallback_meta = dict(classes=["circle", "rectangle", "triangle", "star", "ring", *_stuff], stuff=_stuff)
train = dict(epochs=1)
"""
RUN = """
train_data["pipeline"] = [dict(type="RandomHorizontalFlip")]
train_data |= dict(workers=0)
val_data |= dict(workers=0, pipeline=_small)
"""
OPTIONS = (
    "train.iterations=15 train.epochs=None train.eval_every=15 train.save_every=15 train.save_best=PQ train.log_every=3"
    " train_data.batch_size=4 val_data.batch_size=4"
)


@pytest.fixture(scope="module")
def small_shapes(tmp_path_factory) -> Path:
    """Twelve training images and four validation images of 64 px."""
    root = tmp_path_factory.mktemp("small")
    generate_shapes(root, train=12, val=4, size=64, seed=7)
    return root


@pytest.fixture(scope="module", params=["fpn", "deeplab"])
def trained(request, small_shapes, tmp_path_factory) -> tuple[Path, Path, Path]:
    """The paths of the config, the data root, and the checkpoint of a trained model."""
    folder = tmp_path_factory.mktemp(request.param)
    config = folder / f"{request.param}.py"
    config.write_text(SMALL + (FPN if request.param == "fpn" else DEEPLAB + RUN))
    command = ["train", str(config), "--data-root", str(small_shapes), "--work-dir", str(folder / "run")]
    assert main([*command, "--cfg-options", *OPTIONS.split()]) == 0
    return config, small_shapes, folder / "run/best_PQ.pt"


def test_training_lowers_the_losses_and_reports_panoptic_quality(trained):
    records = [json.loads(line) for line in (trained[2].parent / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["mode"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
    assert {"PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"} <= records[-1].keys()


@pytest.mark.parametrize("trained", ["fpn", *slow("deeplab")], indirect=True)
def test_testing_writes_the_table_a_sheet_and_predictions_in_cocos_format(trained, tmp_path, capsys):
    config, root, checkpoint = trained
    command = ["test", str(config), str(checkpoint), "--data-root", str(root), "--picture", str(tmp_path / "sheet.png")]
    report = tmp_path / "report"
    assert main([*command, "--predictions", str(tmp_path / "found.json"), "--report", str(report)]) == 0
    assert {path.name for path in report.iterdir()} == {"report.json", "classes.png", "worst.png"}
    table = capsys.readouterr().out
    assert all(name in table for name in (*CLASSES, *BACKGROUNDS, "mean of things", "PQ / %"))
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 10
    written = json.loads((tmp_path / "found.json").read_text())["annotations"]
    assert len(written) == 4
    for record in written:
        ids = cv2.imread(str(tmp_path / "found" / record["file_name"]))[..., 2]
        assert sorted(set(ids.flatten().tolist()) - {0}) == [segment["id"] for segment in record["segments_info"]]


@pytest.mark.parametrize("trained", ["fpn", *slow("deeplab")], indirect=True)
def test_predicting_writes_segments_and_a_drawing(trained, tmp_path):
    config, root, checkpoint = trained
    command = ["predict", str(config), str(checkpoint), str(root / "val/000001.jpg"), "--out", str(tmp_path / "drawn")]
    assert main([*command, "--score-threshold", "0.1"]) == 0
    (record,) = json.loads((tmp_path / "drawn/predictions.json").read_text())
    assert {segment["isthing"] for segment in record["segments_info"]} <= {0, 1} and record["file"].endswith("1.jpg")
    assert cv2.imread(str(tmp_path / "drawn/000001_prediction.png")) is not None


@pytest.mark.parametrize("trained", ["deeplab", *slow("fpn")], indirect=True)
def test_predicting_keeps_every_segment_that_the_model_returns_unless_a_threshold_is_given(trained, tmp_path):
    """The scores of Panoptic-DeepLab's things are heatmap values, mostly below 0.5; PQ counts things of any score."""
    config, root, checkpoint = trained
    thing, stuff = (
        ("center_threshold", "stuff_area")
        if config.stem == "deeplab"
        else ("merge.score_threshold", "merge.stuff_area")
    )
    options = {f"model.{thing}": 0.0, f"model.{stuff}": 0}
    image = str(root / "val/000001.jpg")
    command = [
        "predict",
        str(config),
        str(checkpoint),
        image,
        "--cfg-options",
        *(f"{key}={value}" for key, value in options.items()),
        "--precision",
        "fp32",
    ]
    model = chordate.build_model(load_config(config, options), checkpoint=checkpoint)
    (expected,) = chordate.predict(model, image, precision="fp32")
    assert (expected.scores < 0.5).any()
    for threshold, count in ((None, len(expected)), (0.5, int((expected.scores >= 0.5).sum()))):
        given = [] if threshold is None else ["--score-threshold", str(threshold)]
        out = tmp_path / f"drawn{threshold}"
        assert main([*command, "--out", str(out), *given]) == 0
        (record,) = json.loads((out / "predictions.json").read_text())
        assert len(record["segments_info"]) == count


@pytest.mark.parametrize("trained", ["fpn", *slow("deeplab")], indirect=True)
def test_panoptic_samples_can_be_browsed_and_models_summarized(trained, tmp_path, capsys):
    config, root, _ = trained
    assert main(["browse", str(config), "--data-root", str(root), "--out", str(tmp_path), "--count", "4"]) == 0
    assert re.search(r"\d things?, \d stuff segments?", (tmp_path / "index.html").read_text())
    assert main(["summary", str(config)]) == 0
    assert "FLOPs" in capsys.readouterr().out


def test_the_shapes_open_as_a_semantic_folder(shapes):
    """The label images of the shapes have the same classes as the panoptic segments."""
    dataset = SemanticFolder("train", "semantic/train", classes=[*CLASSES, *BACKGROUNDS], data_root=shapes)
    assert len(dataset) == 24
    present = np.unique(np.concatenate([dataset.labels_of(index).unique() for index in range(24)]))
    assert present.max() == len(CLASSES) + len(BACKGROUNDS) - 1


def test_the_semantic_config_of_the_shapes_trains_and_predicts_all_classes(shapes):
    config = load_config("semantic-fpn_r18_shapes")
    dataset = build_dataset(config.val_data, data_root=shapes, training=False)
    assert dataset.classes == (*CLASSES, *BACKGROUNDS)
    model = chordate.build_model(config, meta=dataset.meta, pretrained=False)
    (loss,) = model.train().loss(batch := dataset.original(0)).values()
    loss.backward()
    assert model.head.logits.weight.grad.shape[0] == 9 and model.head.logits.weight.grad.abs().sum() > 0
    (prediction,) = model.eval().predict(batch)
    assert prediction.labels.shape == batch.images.shape[-2:]


def test_the_command_lines_on_panoptic_segmentation_run(folder, capsys, caplog):
    """The commands in docs/panoptic.md run. Its train commands are shortened to one iteration."""

    def shortened(words: list[str]) -> list[str]:
        short = "train.iterations=1 train.epochs=None train.eval_every=1 train.save_every=1 train_data.batch_size=2"
        return with_options(words, *short.split()) if words[1] == "train" else words

    printed = run_page("docs/panoptic.md", folder, capsys, caplog, prepare=shortened)
    assert "mean of stuff" in printed
    assert Path("sheet.png").is_file() and Path("found.json").is_file() and Path("drawn/predictions.json").is_file()
