"""Commands with broken data or checkpoints: a one-line error and exit status 2, or a warning with a count."""

import fcntl
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from tiny_coco import annotation, write_coco

from chordate import BACKBONES, Backbone, FeatureSpec
from chordate.cli.main import main
from chordate.weights.checkpoint_folder import CheckpointFolder

pytestmark = pytest.mark.usefixtures("without_curves")
CONFIG = "faster-rcnn_r18_fpn_demo_shapes"
BOXES = [annotation(1, 1, [10, 10, 20, 20]), annotation(2, 2, [15, 20, 30, 30], category=7)]
SETTINGS = [
    "train.epochs=1", "train.log_every=1", "train.tensorboard=False", "train_data.batch_size=1",
    "train_data.dataset.annotations=annotations.json", "val_data.dataset.annotations=annotations.json",
    "train_data.dataset.images=images", "val_data.dataset.images=images", "train.eval_every=0", "val_data=None",
]  # fmt: skip


@BACKBONES.register_module()
class SmallBackbone(Backbone):
    """A backbone of one convolution per feature map; with `infinite=True`, its outputs are infinite or NaN."""

    def __init__(self, infinite: bool = False):
        super().__init__()
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 8, 3, stride, 1) for stride in (4, 8, 16))
        self.out_features = {f"c{i + 2}": FeatureSpec(8, stride) for i, stride in enumerate((4, 8, 16))}
        self.infinite = infinite

    def forward(self, images):
        maps = {name: conv(images) for name, conv in zip(self.out_features, self.convs)}
        return {name: x * float("inf") if self.infinite else x for name, x in maps.items()}


def train(root: Path, *options: str, more: tuple[str, ...] = ()) -> int:
    backbone = ["model.backbone._delete_=True", "model.backbone.type=SmallBackbone"]
    arguments = ["--data-root", str(root), "--work-dir", str(root / "run"), *more]
    return main(["train", CONFIG, *arguments, "--cfg-options", *SETTINGS, *backbone, *options])


def error_line(capsys, command: str = "train") -> str:
    """The error message of a failed command; asserts that it is one line."""
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith(f"chordate {command}: ")]
    assert len(errors) == 1
    assert not any("Traceback" in line for line in lines)
    return errors[0]


def test_undamaged_data_trains(tmp_path):
    assert train(write_coco(tmp_path, BOXES)) == 0
    assert (tmp_path / "run/epoch_1.pt").is_file()


@pytest.mark.parametrize("workers", [0, 1])
def test_training_on_a_missing_image_is_a_one_line_error_and_status_2(tmp_path, capsys, workers):
    (write_coco(tmp_path, BOXES) / "images/2.png").rename(tmp_path / "images/02.png")
    assert train(tmp_path, f"train_data.workers={workers}") == 2
    assert "images/2.png: no such image file; did you mean 02.png" in error_line(capsys)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_on_a_truncated_jpeg_is_a_one_line_error_and_status_2(tmp_path, capsys, workers):
    write_coco(tmp_path, BOXES)
    picture = cv2.imencode(".jpg", cv2.imread(str(tmp_path / "images/2.png")))[1].tobytes()
    (tmp_path / "images/2.png").write_bytes(picture[: len(picture) // 2])
    assert train(tmp_path, f"train_data.workers={workers}") == 2
    assert "images/2.png" in (line := error_line(capsys)) and "truncated" in line


def test_the_newest_checkpoint_is_chosen_while_no_other_training_can_write_one(tmp_path, monkeypatch):
    """A requeued job may start while the job before it still saves its last checkpoint."""

    def newest(folder):
        with open(folder.folder / "lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked.append(False)
            except BlockingIOError:
                locked.append(True)
        return choose(folder)

    locked, choose = [], CheckpointFolder.newest
    monkeypatch.setattr(CheckpointFolder, "newest", newest)
    assert train(write_coco(tmp_path, BOXES), more=("--resume",)) == 0
    assert locked and all(locked)
    assert not (tmp_path / "run/lock").exists()


def test_images_of_every_file_type_train(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    kinds = {
        "gray.jpg": (photo.convert("L"), {}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "deep.png": (PIL.Image.fromarray(np.full((60, 80), 40_000, np.uint16)), {}),
        "turned.jpg": (photo, {"exif": exif}),
    }
    images = []
    write_coco(tmp_path, [])
    for number, (name, (picture, options)) in enumerate(kinds.items(), 1):
        picture.save(tmp_path / "images" / name, **options)
        height, width = (80, 60) if options else (60, 80)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    write_coco(tmp_path, [annotation(n, n, [5, 5, 30, 30]) for n in range(1, 5)], images=images)
    assert train(tmp_path) == 0


@pytest.mark.parametrize(
    ("box", "warning"), [([70, 50, 90, 90], "clipped to the image"), ([10, 10, 0, 20], "with a side below 0.01 px")]
)
def test_boxes_beyond_the_image_or_without_area_are_counted_and_training_goes_on(tmp_path, caplog, box, warning):
    assert train(write_coco(tmp_path, [*BOXES, annotation(3, 1, box)])) == 0
    assert warning in (tmp_path / "run").glob("*/*.log").__next__().read_text()


@pytest.mark.parametrize(
    ("annotations", "complaint"),
    [
        ([*BOXES, annotation(8, 1, [1, 1, 9, 9], category=44)], "(id 8)"),
        ([*BOXES, annotation(9, 1, [1, 1, 9])], "(id 9)"),
        ([*BOXES, annotation(6, 99, [1, 1, 9, 9])], "(id 6)"),
        ([], "there is nothing to train on; annotate some images"),
        ([box | {"iscrowd": 1} for box in BOXES], "only 2 crowds (iscrowd 1, which CVAT writes for every mask), so"),
    ],
    ids=["unknown category", "bbox of three numbers", "annotation of no image", "no annotation", "only crowds"],
)
def test_training_on_contradictory_annotations_is_a_one_line_error_and_status_2(
    tmp_path, capsys, annotations, complaint
):
    assert train(write_coco(tmp_path, annotations)) == 2
    assert "annotations.json" in (line := error_line(capsys)) and complaint in line


def test_training_on_truncated_json_is_a_one_line_error_and_status_2(tmp_path, capsys):
    file = write_coco(tmp_path, BOXES) / "annotations.json"
    file.write_text(file.read_text()[:200])
    assert train(tmp_path) == 2
    assert "annotations.json: not COCO annotations, or truncated" in error_line(capsys)


def test_training_on_an_empty_dataset_is_a_one_line_error_and_status_2(tmp_path, capsys):
    assert train(write_coco(tmp_path, [], images=[])) == 2
    assert "annotations.json: no images; there is nothing to load" in error_line(capsys)


def test_a_loss_that_is_not_finite_names_itself_the_step_and_the_images(tmp_path, capsys):
    assert train(write_coco(tmp_path, BOXES), "model.backbone.infinite=True") == 2
    line = error_line(capsys)
    assert "is nan in iteration 1" in line and ("images [1]" in line or "images [2]" in line)
    assert not list((tmp_path / "run").glob("*.pt"))


class Harm:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def broken(kind: str, folder: Path) -> Path:
    path = folder / f"{kind.split()[0]}.pt"
    if kind == "cut short":
        torch.save({"conv.weight": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "another model's":
        torch.save({"some.weight": torch.zeros(3)}, path)
    elif kind == "pickle that runs code":
        path.write_bytes(pickle.dumps({"model": Harm(folder / "harmed")}))
    else:
        torch.save({"state_dict": Harm(folder / "harmed")}, path)
    return path


KINDS = ["cut short", "another model's", "pickle that runs code", "zip that runs code"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["test", "predict", "train --resume", "train pretrained"])
def test_a_broken_checkpoint_is_a_one_line_error_and_status_2(tmp_path, capsys, kind, command):
    write_coco(tmp_path, BOXES)
    path = str(broken(kind, tmp_path))
    classes = "fallback_meta.classes=[cat,dog]"
    if command == "test":
        arguments = ["test", CONFIG, path, "--data-root", str(tmp_path), "--cfg-options", classes]
        status = main([*arguments, "val_data.dataset.annotations=annotations.json", "val_data.dataset.images=images"])
    elif command == "predict":
        status = main(["predict", CONFIG, path, str(tmp_path / "images/1.png"), "--cfg-options", classes])
    elif command == "train --resume":
        status = train(tmp_path, more=("--resume", path))
    else:
        arguments = ["--data-root", str(tmp_path), "--work-dir", str(tmp_path / "run"), "--cfg-options", *SETTINGS]
        status = main(["train", CONFIG, *arguments, f"model.backbone.pretrained={path}"])
    assert status == 2
    assert path in error_line(capsys, command.split()[0])
    assert not (tmp_path / "harmed").exists()


def test_more_objects_than_are_evaluated_are_logged_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", [one for one in SETTINGS if one != "val_data=None"])
    boxes = [annotation(number, 2, [number, 5, 30, 30]) for number in range(1, 7)]
    settings = ["train.epochs=2", "train.eval_every=1", "metric.type=CocoMetric", "metric.max_dets=[1,2,3]"]
    assert train(write_coco(tmp_path, boxes), *settings) == 0
    log = next((tmp_path / "run").glob("*/train.log")).read_text()
    assert log.count("evaluation after epoch") == 2
    assert log.count("metric.max_dets") == 1
    assert "images have up to 6 objects and" in log and "only 3 detections per image and class are evaluated" in log
