"""Commands on pose estimation: a small model is trained on stick figures and tested; its predictions are drawn."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import pytest
from stick_figures import detected, write_figures

from chordate.cli.main import main

pytestmark = pytest.mark.usefixtures("without_curves")
CONFIG = """
fallback_meta = dict(classes=["figure"], skeleton=["head", "left_hand", "right_hand"])
_dataset = dict(type="CocoPoseDataset", annotations="figures.json", images="images")
model = dict(
    type="PoseEstimator",
    backbone=dict(type="resnet18", base_channels=16, out=["c3"]),
    head=dict(type="DeconvHead", deconvs=1, channels=32),
)
train_data = dict(
    dataset=_dataset,
    pipeline=[
        dict(type="TopDownCrop", size=(64, 64), rotation=10, scale=0.1),
        dict(type="RandomHorizontalFlip"),
    ],
    batch_size=8,
    workers=0,
)
val_data = dict(dataset=_dataset, pipeline=[dict(type="TopDownCrop", size=(64, 64))], batch_size=5, workers=0)
optimizer = dict(type="Adam", lr=3e-3, base_batch_size=8)
schedule = dict(type="step", milestones=[35, 45])
train = dict(
    iterations=50, eval_every=50, save_every=50, save_best="keypoints_AP", tensorboard=False, log_every=5
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a config and stick figures; `found.json` has the annotated boxes as a detector's results."""
    root = tmp_path_factory.mktemp("pose")
    (root / "figures.py").write_text(CONFIG)
    (root / "found.json").write_text(json.dumps(detected(write_figures(root, images=12))))
    return root


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The work dir of the training run."""
    arguments = ["train", str(folder / "figures.py"), "--data-root", str(folder), "--work-dir", str(folder / "run")]
    assert main(arguments) == 0
    return folder / "run"


def test_training_learns_the_keypoints(trained):
    records = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    losses = [record["heatmap"] for record in records if "heatmap" in record]
    assert losses[-1] < 0.3 * losses[0]
    assert records[-1]["keypoints_AP"] > 0.5


@pytest.fixture(scope="module")
def tested(trained, folder) -> Path:
    """The folder to which `chordate test` writes its outputs for detected boxes."""
    command = ["test", str(folder / "figures.py"), str(trained / "best_keypoints_AP.pt"), "--data-root", str(folder)]
    root = folder / "tested"
    outputs = ["--out", str(root / "n.json"), "--predictions", str(root / "p.json")]
    pages = ["--picture", str(root / "sheet.png"), "--report", str(root / "report")]
    options = ["--cfg-options", "val_data.dataset.boxes=found.json", "val_data.dataset.box_score_threshold=0.5"]
    root.mkdir()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*command, *outputs, *pages, *options]) == 0
    (root / "printed.txt").write_text(printed.getvalue())
    return root


def test_testing_on_detected_boxes_writes_results_and_pictures(tested):
    assert "class (keypoints)" in (tested / "printed.txt").read_text()
    assert json.loads((tested / "n.json").read_text())["keypoints_AP"] > 0.5
    results = json.loads((tested / "p.json").read_text())
    assert len(results) == 24 and {"image_id", "category_id", "keypoints", "score"} <= results[0].keys()
    assert cv2.imread(str(tested / "sheet.png")).std() > 10
    assert (tested / "report/report.json").is_file()


def test_predictions_of_a_detector_are_boxes_for_pose_estimation(trained, folder, tested):
    """The dataset reads boxes from a file of `test --predictions`; here, a pose estimator wrote it, not a detector."""
    command = ["test", str(folder / "figures.py"), str(trained / "best_keypoints_AP.pt"), "--data-root", str(folder)]
    assert main([*command, "--cfg-options", f"val_data.dataset.boxes={tested / 'p.json'}"]) == 0


def test_predicting_takes_an_image_as_one_object_and_draws_it(trained, folder, tmp_path):
    figure = cv2.imread(str(folder / "images/1.png"))[:, :60]
    cv2.imwrite(str(tmp_path / "one.png"), figure)
    command = ["predict", str(folder / "figures.py"), str(trained / "best_keypoints_AP.pt"), str(tmp_path / "one.png")]
    assert main([*command, "--out", str(tmp_path / "drawn"), "--score-threshold", "0.1"]) == 0
    (record,) = json.loads((tmp_path / "drawn/predictions.json").read_text())
    assert record["box"] == [0, 0, 60, 90] and list(record["keypoints"]) == ["head", "left_hand", "right_hand"]
    content = json.loads((folder / "figures.json").read_text())
    head = content["annotations"][0]["keypoints"][:2]
    assert record["keypoints"]["head"][:2] == pytest.approx([head[0] + 0.5, head[1] + 0.5], abs=6)
    assert cv2.imread(str(tmp_path / "drawn/one_prediction.png")) is not None


def test_crops_can_be_browsed_and_the_model_summarized(folder, tmp_path, capsys):
    config = str(folder / "figures.py")
    assert main(["browse", config, "--data-root", str(folder), "--out", str(tmp_path), "--count", "4"]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "3 of 3 keypoints" in page and "left side is orange" in page
    assert main(["summary", config]) == 0
    assert "64×64" in capsys.readouterr().out
