"""A top-down pose estimator predicts on given boxes, several per image: in Python and on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from loading import checkpoint_of
from stick_figures import NAMES, detected, write_figures

import chordate
from chordate.cli.main import main
from chordate.data import CocoPoseDataset
from chordate.errors import ConfigError, DataError
from chordate.structures import Detections, Poses

CROP = {"type": "TopDownCrop", "size": (64, 64)}
CONFIG = f"""
fallback_meta = dict(classes=["figure"], skeleton={NAMES})
model = dict(
    type="PoseEstimator",
    backbone=dict(type="resnet18", base_channels=8, out=["c3"]),
    head=dict(type="DeconvHead", deconvs=1, channels=16),
)
val_data = dict(dataset=dict(type="CocoPoseDataset", annotations="figures.json", images="images"), pipeline=[{CROP}])
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stick figures, their boxes as COCO results, a config, and a checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("boxes")
    content = write_figures(folder, images=3)
    (folder / "found.json").write_text(json.dumps(detected(content)))
    (folder / "figures.py").write_text(CONFIG)
    torch.manual_seed(0)
    model = chordate.build_model(folder / "figures.py")
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(checkpoint_of(model), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def model(root: Path) -> chordate.Model:
    return chordate.build_model(root / "figures.py", checkpoint=root / "model.pt")


def corners(content: dict, image_id: int) -> np.ndarray:
    """The annotated boxes `[M, 4]` of an image, x1, y1, x2, y2."""
    boxes = np.array([a["bbox"] for a in content["annotations"] if a["image_id"] == image_id], np.float32)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def same(found: Poses, expected: list[Poses]) -> bool:
    """Whether `found` is sorted by score and has the poses of `expected`, which may be in any order."""
    order = sorted(range(len(expected)), key=lambda i: -float(expected[i].scores))
    pairs = [
        (getattr(found, name), torch.cat([getattr(expected[i], name) for i in order]))
        for name in ("boxes", "scores", "labels", "keypoints")
    ]
    return all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_each_box_gets_the_pose_that_an_evaluation_on_detected_boxes_predicts(root: Path, model) -> None:
    """For the reference, a `CocoPoseDataset` reads the same boxes, with score 0.9, from a file of COCO results."""
    dataset = CocoPoseDataset("figures.json", "images", boxes="found.json", data_root=root, pipeline=[CROP])
    with torch.no_grad():
        expected = [model.predict(dataset.collate([dataset[0, index]]))[0] for index in range(len(dataset))]
    content = json.loads((root / "figures.json").read_text())
    paths = [root / f"images/{number}.png" for number in (1, 2, 3)]
    boxes = [torch.from_numpy(corners(content, 10 * number)) for number in (1, 2, 3)]
    objects = [Detections(own, torch.full((2,), 0.9), torch.zeros(2, dtype=torch.int64)) for own in boxes]
    for size in (1, 4):
        found = chordate.predict(model, paths, boxes=objects, batch_size=size)
        assert [len(one) for one in found] == [2, 2, 2]
        assert all(same(one, expected[2 * i : 2 * i + 2]) for i, one in enumerate(found))
    plain = chordate.predict(model, paths, boxes=boxes)  # boxes without scores get score 1
    assert torch.allclose(plain[0].scores * 0.9, found[0].scores, atol=1e-5)
    assert torch.allclose(plain[0].keypoints, found[0].keypoints, atol=1e-4)
    assert not torch.allclose(found[0].keypoints[0], found[0].keypoints[1], atol=5)


def test_an_image_may_have_no_box_and_one_image_needs_no_list(root: Path, model) -> None:
    path = root / "images/1.png"
    boxes = [[10, 20, 50, 80], [60, 15, 110, 85], [0, 0, 120, 90]]
    (alone,) = chordate.predict(model, path, boxes=boxes)
    none, three, one = chordate.predict(model, [path] * 3, boxes=[[], np.array(boxes), boxes[:1]], batch_size=2)
    assert (len(none), len(three), len(one)) == (0, 3, 1) and none.keypoints.shape == (0, 3, 3)
    assert torch.allclose(alone.keypoints, three.keypoints, atol=1e-4)
    assert alone.scores.tolist() == sorted(alone.scores.tolist(), reverse=True)
    threshold = float(alone.scores[0])
    assert len(chordate.predict(model, path, boxes=boxes, score_threshold=threshold)[0]) == 1
    (whole,) = chordate.predict(model, path)  # without boxes, the image is one object
    place = alone.boxes.tolist().index([0, 0, 120, 90])
    assert torch.allclose(whole.keypoints[0], alone.keypoints[place], atol=1e-4)


PERSON = Detections(torch.tensor([[1.0, 1, 9, 9]]), torch.ones(1), torch.tensor([3]))
MISTAKES = [
    ([[1, 2, 3]], r"boxes of image 0 must be \[M, 4\] \(x1, y1, x2, y2 in pixels\), got \[1, 3\]"),
    ("boxes", r"boxes of image 0 must be \[M, 4\]"),
    ([[1, 2, 9, 9], [5, 5, 5, 9]], r"boxes of image 0: box 1 has no area: \[5\.0, 5\.0, 5\.0, 9\.0\]"),
    ([[1, 2, float("nan"), 9]], "box 0 has no area"),
    (PERSON, r"boxes of image 0 have the label 3, but the model's classes are figure; pass only detections"),
]


@pytest.mark.parametrize(("boxes", "message"), MISTAKES, ids=[message[:50] for _, message in MISTAKES])
def test_invalid_boxes_are_a_one_line_error(root: Path, model, boxes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        chordate.predict(model, root / "images/1.png", boxes=boxes)
    assert "\n" not in str(caught.value)


def test_a_list_of_images_needs_boxes_for_each(root: Path, model) -> None:
    paths = [root / "images/1.png", root / "images/2.png"]
    with pytest.raises(DataError, match="one entry per image, got 1 entries for 2 images"):
        chordate.predict(model, paths, boxes=[[[1, 2, 30, 40]]])
    with pytest.raises(DataError, match="one entry per image, got 1 entries for 2 images"):
        chordate.predict(model, paths, boxes=PERSON)


def test_a_model_of_whole_images_takes_no_boxes(root: Path, model) -> None:
    classifier = chordate.build_model("resnet20_cifar10", pretrained=False).eval()
    with pytest.raises(ConfigError, match="boxes are for top-down models such as PoseEstimator; .* takes none"):
        chordate.predict(classifier, root / "images/1.png", boxes=[[1, 2, 30, 40]])
    uncropped = chordate.build_model(root / "figures.py", checkpoint=root / "model.pt")
    uncropped.pipeline = []
    with pytest.raises(ConfigError, match="boxes need a TopDownCrop"):
        chordate.predict(uncropped, root / "images/1.png", boxes=[[1, 2, 30, 40]])


def predictions_of_a_detector(root: Path) -> list[dict]:
    """The records that `chordate predict` writes for a detector of figures and dogs; the third image has only a dog."""
    content = json.loads((root / "figures.json").read_text())
    records = []
    for number in (1, 2):
        for box in corners(content, 10 * number).tolist():
            records.append({"file": str(root / f"images/{number}.png"), "class": "figure", "score": 0.9, "box": box})
    dog = {"file": str(root / "images/3.png"), "class": "dog", "score": 0.8, "box": [1, 2, 30, 40]}
    return [*records, dog]


def test_the_command_reads_the_boxes_that_a_detector_predicted(root: Path, model, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(predictions_of_a_detector(root)))
    command = ["predict", str(root / "figures.py"), str(root / "model.pt"), str(root / "images"), "--precision", "fp32"]
    options = ["--boxes", str(tmp_path / "boxes.json"), "--score-threshold", "0", "--out", str(tmp_path / "out")]
    assert main([*command, *options]) == 0
    records = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [Path(record["file"]).name for record in records] == ["1.png", "1.png", "2.png", "2.png"]
    content = json.loads((root / "figures.json").read_text())
    (expected,) = chordate.predict(model, root / "images/1.png", boxes=corners(content, 10))
    for record, keypoints, score in zip(records, expected.keypoints, expected.scores.tolist()):
        points = np.array([record["keypoints"][name] for name in NAMES])
        assert np.allclose(points, keypoints.numpy(), atol=0.02) and record["class"] == "figure"
        assert record["score"] == pytest.approx(0.9 * score, abs=1e-3)
    assert cv2.imread(str(tmp_path / "out/3_prediction.png")) is not None  # drawn, although it has no box of a figure


RECORD = {"file": "a.png", "class": "figure", "score": 1, "box": [1, 2, 9, 9]}
FILES = [
    ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "not predictions of a detector"),
    ("{", "not predictions of a detector"),
    (
        '[{"file": "a.png", "class": "dog", "score": 1, "box": [1, 2, 9, 9]}]',
        r"no box has a class of the model \(figure\); the boxes are of dog",
    ),
    (
        '[{"file": "a.png", "class": "figure", "score": 1, "box": [1, 2, 9, 9]}]',
        "no boxes for .*1.png, but some for .*a.png",
    ),
    (None, "no such predictions file"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=[message[:20] for _, message in FILES])
def test_a_file_without_usable_boxes_is_a_one_line_error(
    root: Path, tmp_path: Path, capsys, text, message: str
) -> None:
    path = tmp_path / "boxes.json"
    if text is not None:
        path.write_text(text)
    command = ["predict", str(root / "figures.py"), str(root / "model.pt"), str(root / "images/1.png")]
    assert main([*command, "--out", str(tmp_path / "out"), "--boxes", str(path)]) == 2
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])
