"""Keypoint R-CNN end to end: the number of keypoints comes from the data and is saved with the weights."""

import json
from pathlib import Path

import pytest
import torch
from detection_toys import instances
from loading import checkpoint_of, open_loader
from tiny_coco import annotation, write_coco

import chordate
from chordate.cli.main import main
from chordate.config import load_config
from chordate.data.coco_classes import COCO_SKELETON
from chordate.errors import CheckpointError, ConfigError, DataError
from chordate.structures import Batch, DatasetMeta, ImageInfo, Skeleton

pytestmark = pytest.mark.usefixtures("without_curves")
DEMO = "faster-rcnn_r18_fpn_demo_shapes"
ARROW = Skeleton(("tip", "left_end", "right_end"), ((0, 1), (0, 2)))
HEAD = {"type": "KeypointHead", "convs": 1, "channels": 16, "sampling_ratio": 2}
CATEGORY = {"id": 3, "name": "arrow", "keypoints": list(ARROW.names), "skeleton": [[1, 2], [1, 3]]}


def small(**settings):
    return load_config(DEMO, {"model.keypoint": HEAD, "model.box.trunk.fc_channels": 32, **settings})


def build(**arguments):
    return chordate.build_model(small(), **{"pretrained": False, **arguments})


def arrow_meta(skeleton=ARROW) -> DatasetMeta:
    return DatasetMeta(("arrow",), skeleton)


@pytest.fixture
def arrows(tmp_path: Path) -> Path:
    """A COCO dataset of two images with two arrows each, annotated with keypoints."""
    points = [[10, 12, 2, 20, 30, 1, 30, 12, 2], [40, 12, 2, 0, 0, 0, 60, 45, 2]]
    boxes = [[8, 8, 30, 30], [38, 8, 30, 40]]
    objects = [
        annotation(2 * i + j, i, boxes[j], keypoints=points[j], num_keypoints=3 - j) for i in (1, 2) for j in (0, 1)
    ]
    return write_coco(tmp_path / "arrows", objects, categories=[CATEGORY], sizes=((64, 80), (64, 80)))


def test_the_number_of_keypoints_comes_from_the_data_the_checkpoint_or_the_config(tmp_path):
    model = build(meta=arrow_meta())
    assert model.meta.skeleton == ARROW and model.keypoint.heatmaps.out_channels == 3
    torch.save(checkpoint_of(model), tmp_path / "a.pt")
    loaded = chordate.build_model(small(), checkpoint=tmp_path / "a.pt")
    assert loaded.meta.skeleton == ARROW and loaded.keypoint.heatmaps.out_channels == 3
    with torch.device("meta"):
        coco = chordate.build_model("keypoint-rcnn_r50_fpn_1x_coco", pretrained=False)
    assert coco.meta.skeleton == COCO_SKELETON and coco.classes == ("person",)
    named = chordate.build_model(small(**{"fallback_meta.skeleton": ["tip", "tail"]}), num_classes=1, pretrained=False)
    assert named.meta.skeleton == Skeleton(("tip", "tail"))


def test_a_model_without_a_number_of_keypoints_is_a_one_line_error():
    with pytest.raises(
        ConfigError, match="has a keypoint head, but the dataset has no keypoint names; train on data with key"
    ):
        build(classes=["arrow"])


def test_a_checkpoint_with_another_number_of_keypoints_is_refused():
    state = build(meta=arrow_meta(Skeleton(("a", "b")))).state_dict()
    with pytest.raises(CheckpointError, match=r"keypoint\.heatmaps\.weight"):
        chordate.load_checkpoint(build(meta=arrow_meta()), state)


def test_a_model_without_a_keypoint_head_ignores_a_skeleton():
    model = chordate.build_model(DEMO, meta=arrow_meta(), pretrained=False)
    assert model.keypoint is None


def test_data_whose_keypoints_differ_from_the_models_is_refused(arrows):
    config = {
        "dataset": {"type": "CocoDataset", "annotations": "annotations.json", "images": "images", "keypoints": True}
    }
    shared = {"data_root": arrows, "training": False, "seed": 0}
    assert open_loader(config, meta=arrow_meta(), **shared).dataset.meta.skeleton == ARROW
    with pytest.raises(DataError, match=r"its keypoints are tip, left_end, right_end, but the model's are a, b"):
        open_loader(config, meta=arrow_meta(Skeleton(("a", "b"))), **shared)


def test_keypoints_are_in_pixels_of_the_original_image():
    torch.manual_seed(0)
    model = build(meta=arrow_meta()).eval()
    torch.nn.init.normal_(model.box.cls_score.weight, std=0.3)
    batch = Batch(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8), torch.full((2, 2), 96), [])
    batch.infos = [ImageInfo(0, "", 96, 96), ImageInfo(1, "", 96, 96)]
    plain = model(batch)
    batch.infos = [ImageInfo(0, "", 2 * 96, 96), ImageInfo(1, "", 96, 3 * 96)]
    scaled = model(batch)
    for original, resized, factor in zip(plain, scaled, ([1, 2, 1], [3, 1, 1])):
        assert len(original) and original.keypoints.shape == (len(original), 3, 3)
        torch.testing.assert_close(resized.keypoints, original.keypoints * torch.tensor(factor))


def test_a_keypoint_detector_learns_the_corners_of_a_square():
    torch.manual_seed(0)
    model = chordate.build_model(
        small(**{"model.keypoint.convs": 2, "model.keypoint.channels": 32}), pretrained=False,
        meta=DatasetMeta(("square",), Skeleton(("left_top", "right_top"))),
    )  # fmt: skip
    images = torch.full((2, 3, 96, 96), 60, dtype=torch.uint8)
    boxes = [[[8.0, 8, 40, 40], [50, 30, 90, 80]], [[30.0, 40, 70, 90]]]
    targets = instances(boxes)
    targets.keypoints = torch.zeros(2, 8, 2, 3)
    for i, image_boxes in enumerate(boxes):
        for j, (x1, y1, x2, y2) in enumerate(image_boxes):
            images[i, :, int(y1) : int(y2), int(x1) : int(x2)] = 250
            targets.keypoints[i, j] = torch.tensor([[x1 + 4, y1 + 4, 2], [x2 - 4, y1 + 4, 2]])
    batch = Batch(images, torch.full((2, 2), 96), [ImageInfo(i, "", 96, 96) for i in range(2)], targets)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(35):
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
    for i, detections in enumerate(model.predict(batch)):
        for box, truth in zip(boxes[i], targets.keypoints[i]):
            best = (detections.boxes - torch.tensor(box)).abs().amax(1).argmin()
            assert ((detections.keypoints[best, :, :2] - truth[:, :2]).abs() < 4).all()


def test_the_commands_train_resume_test_and_predict_keypoints(arrows, tmp_path, monkeypatch, capfd):
    """No command needs the number of keypoints as an argument; it comes from the data and the checkpoint."""
    monkeypatch.chdir(tmp_path)
    data = 'dict(dataset=dict(annotations="annotations.json", images="images", keypoints=True))'
    (tmp_path / "arrows.py").write_text(
        f'base = "{DEMO}"\ntrain_data = val_data = {data}\n'
        f"model = dict(keypoint=dict({', '.join(f'{key}={value!r}' for key, value in HEAD.items())}))\n"
        "train = dict(epochs=None, iterations=1, eval_every=0, save_best=None, tensorboard=False)\n"
    )
    shared = ["--data-root", str(arrows)]
    assert main(["train", "arrows.py", "--work-dir", "run", *shared]) == 0
    assert (
        main(["train", "arrows.py", "--work-dir", "run", "--resume", *shared, "--cfg-options", "train.iterations=2"])
        == 0
    )
    saved = torch.load("run/iteration_2.pt", weights_only=True)
    assert saved["meta"] == DatasetMeta(("arrow",), ARROW).to_dict()
    assert main(["test", "arrows.py", "run/iteration_2.pt", *shared]) == 0
    image = str(arrows / "images/1.png")
    assert main(["predict", "arrows.py", "run/iteration_2.pt", image, "--score-threshold", "0", "--out", "drawn"]) == 0

    (first, *_) = json.loads((tmp_path / "drawn/predictions.json").read_text())
    assert list(first["keypoints"]) == list(ARROW.names) and len(first["keypoints"]["tip"]) == 3
    assert (tmp_path / "drawn/1_prediction.png").is_file()

    renamed = [{**CATEGORY, "keypoints": ["tip", "a", "b"]}]
    write_coco(arrows, [annotation(1, 1, [8, 8, 30, 30], keypoints=[10, 12, 2] * 3)], categories=renamed)
    assert main(["train", "arrows.py", "--work-dir", "run", "--resume", *shared]) == 2
    assert "resume with the same data" in capfd.readouterr().err
