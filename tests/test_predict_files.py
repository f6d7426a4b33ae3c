"""`chordate predict`: folders with broken files, pictures, COCO results, and models for 1, 4 or 6 image channels."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from backbone_referee import slow
from loading import checkpoint_of
from pycocotools.coco import COCO
from raw_images import png, tiff

import chordate
from chordate import BACKBONES, Backbone, FeatureSpec
from chordate.cli.main import main
from chordate.errors import ConfigError, DataError
from chordate.evaluation.packed_detections import coco_results
from chordate.structures import Classification, Detections, ImageInfo

CONFIG = "faster-rcnn_r18_fpn_demo_shapes"


@BACKBONES.register_module()
class BandBackbone(Backbone):
    """A small backbone for FPN; images may have any number of channels."""

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self.in_channels = in_channels
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(in_channels, 8, 3, stride, 1) for stride in (4, 8, 16))
        self.out_features = {f"c{i + 2}": FeatureSpec(8, stride) for i, stride in enumerate((4, 8, 16))}

    def forward(self, images):
        return {name: conv(images) for name, conv in zip(self.out_features, self.convs)}


def config(channels: int) -> dict[str, object]:
    statistics = {"mean": [100.0] * channels, "std": [50.0] * channels}
    return {"backbone": {"_delete_": True, "type": "BandBackbone", "in_channels": channels}, "preprocess": statistics}


def write_config(path: Path, channels: int) -> str:
    dataset = {"annotations": "annotations.json", "images": "images"}
    path.write_text(
        f'base = "{CONFIG}"\nmodel = {config(channels)!r}\n'
        f"train_data = dict(dataset={dataset!r}, workers=0, batch_size=2)\n"
        f"val_data = dict(dataset={dataset!r}, workers=0)\ntrain = dict(epochs=1, tensorboard=False)\n"
    )
    return str(path)


def checkpoint(config_path: str, path: Path) -> str:
    torch.manual_seed(0)
    model = chordate.build_model(config_path, classes=["cat", "dog"], pretrained=False)
    with torch.no_grad():
        model.box.cls_score.weight.normal_(0, 0.3)
        model.box.cls_score.bias[-1] = -10  # lowers the background logit, so that there are detections
    torch.save(checkpoint_of(model), path)
    return str(path)


@pytest.fixture
def rgb(tmp_path: Path) -> tuple[str, str]:
    """A config and a checkpoint of a model for RGB images."""
    path = write_config(tmp_path / "rgb.py", 3)
    return path, checkpoint(path, tmp_path / "rgb.pt")


def test_a_folder_is_predicted_past_broken_images_and_nothing_is_left_out_silently(tmp_path, rgb, capsys) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = PIL.Image.fromarray(pixels)
    readable = ["a.avif", "b.gif", "c.jp2", "d.JPG", "e.tiff", "f.png", "g.webp"]
    for name in readable:
        photo.save(folder / name, format={"jp2": "JPEG2000"}.get(name.split(".")[1]))
    (folder / "deep.png").write_bytes(png(pixels.astype(np.uint16) * 16))
    (folder / "h.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (folder / "cut.jpg").write_bytes((folder / "d.JPG").read_bytes()[:300])
    (folder / "notes.txt").write_text("no image")
    status = main(["predict", *rgb, str(folder), "--out", str(tmp_path / "out"), "--score-threshold", "0.1"])
    output = capsys.readouterr()
    assert status == 2
    assert "1 file left out, no image: notes.txt" in output.out and "on 8 images:" in output.out
    (line,) = (line for line in output.err.splitlines() if line.startswith("chordate predict: "))
    assert "cut.jpg: " in line and "h.heic: HEIC images are not supported" in line
    stems = {"a", "b", "c", "d", "e", "f", "g", "deep"}
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {f"{stem}_prediction.png" for stem in stems}


def test_images_of_equal_names_and_in_subfolders_all_have_their_pictures(tmp_path, rgb, capsys) -> None:
    """The second run ignores the pictures that the first run wrote to a subfolder of the image folder."""
    folder = tmp_path / "photos"
    values = {"1.jpg": 0, "1.png": 60, "1_1.jpg": 120, "a/1.jpg": 180, "b/1.jpg": 240}
    for name, value in values.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (80, 60), (value, value, value)).save(folder / name)
    (folder / "a/notes.txt").write_text("no image")
    expected = {"1": 0, "1_2": 60, "1_1": 120, "a/1": 180, "b/1": 240}
    for _ in range(2):
        out = folder / "drawn"
        assert main(["predict", *rgb, str(folder), "--out", str(out), "--score-threshold", "1"]) == 0
        printed = capsys.readouterr().out
        assert "1 file left out, no image: a/notes.txt" in printed and "on 5 images:" in printed
        pictures = {path.relative_to(out).as_posix(): path for path in out.rglob("*.png")}
        assert sorted(pictures) == sorted(f"{name}_prediction.png" for name in expected)
        for name, value in expected.items():
            mean = np.asarray(PIL.Image.open(pictures[f"{name}_prediction.png"])).mean()
            assert mean == pytest.approx(value, abs=2)


def test_images_that_are_named_one_by_one_have_pictures_by_file_name(tmp_path, rgb) -> None:
    files = [tmp_path / "a/1.png", tmp_path / "b/c/1.png", tmp_path / "b/2.png"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (80, 60)).save(file)
    out = tmp_path / "out"
    assert main(["predict", *rgb, *map(str, files), "--out", str(out), "--score-threshold", "1"]) == 0
    assert {path.name for path in out.glob("*.png")} == {f"{name}_prediction.png" for name in ("1", "1_1", "2")}


def test_a_folder_within_the_output_folder_is_predicted(tmp_path, rgb) -> None:
    folder = tmp_path / "out/photos"
    folder.mkdir(parents=True)
    PIL.Image.new("RGB", (80, 60)).save(folder / "1.png")
    assert main(["predict", *rgb, str(folder), "--out", str(tmp_path / "out"), "--score-threshold", "1"]) == 0
    assert (tmp_path / "out/1_prediction.png").is_file()


def test_predictions_are_also_written_as_coco_results(tmp_path, rgb) -> None:
    files = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        files.append(str(tmp_path / f"{number}.png"))
        Path(files[-1]).write_bytes(png(pixels))
    (tmp_path / "0.jpg").write_bytes(b"broken")
    results = tmp_path / "made/results.json"
    arguments = [*rgb, files[0], str(tmp_path / "0.jpg"), files[1], "--out", str(tmp_path / "out")]
    options = ["--score-threshold", "0.1", "--precision", "fp32", "--predictions", str(results)]
    assert main(["predict", *arguments, *options]) == 2  # because of the broken file
    records = json.loads(results.read_text())
    assert {record["file_name"]: record["image_id"] for record in records} == {files[0]: 1, files[1]: 3}
    model = chordate.build_model(rgb[0], checkpoint=rgb[1])
    wanted = chordate.predict(model, files, score_threshold=0.1, precision="fp32")
    for file, detections in zip(files, wanted):
        own = [record for record in records if record["file_name"] == file]
        corners = np.array([record["bbox"] for record in own])
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(corners, detections.boxes, atol=2e-3)
        np.testing.assert_allclose([record["score"] for record in own], detections.scores, atol=1e-5)
        assert [record["category_id"] for record in own] == (detections.labels + 1).tolist()
        assert all(record["category_name"] == ["cat", "dog"][record["category_id"] - 1] for record in own)
    truth = COCO()
    truth.dataset = {"images": [{"id": 1}, {"id": 3}], "annotations": [], "categories": [{"id": 1}, {"id": 2}]}
    truth.createIndex()
    assert len(truth.loadRes(str(results)).anns) == len(records) > 0


def test_coco_results_have_masks_and_are_for_detections_only() -> None:
    masks = torch.zeros(1, 6, 8, dtype=torch.bool)
    masks[0, 2:4, 3:7] = True
    detections = Detections(torch.tensor([[3.0, 2, 7, 4]]), torch.tensor([0.5]), torch.tensor([1]), masks)
    (result,) = coco_results(detections, ImageInfo(7, "a.png", 6, 8), ("cat", "dog"))
    assert result["bbox"] == [3, 2, 4, 2] and result["segmentation"]["size"] == [6, 8]
    assert (result["image_id"], result["category_id"], result["category_name"]) == (7, 2, "dog")
    with pytest.raises(ConfigError, match="--predictions writes detections, but the model predicts Classification"):
        coco_results(Classification(torch.ones(2)), ImageInfo(1, "a.png", 6, 8), ("cat", "dog"))


# Channels


def write_data(root: Path, channels: int, count: int = 2) -> None:
    """Write a COCO dataset of `count` TIFFs with `channels` channels and one object each."""
    (root / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(1, count + 1):
        pixels = random.integers(0, 256, (64, 64, channels), dtype=np.uint8)
        (root / f"images/{number}.tif").write_bytes(tiff(pixels))
    images = [{"id": n, "file_name": f"{n}.tif", "height": 64, "width": 64} for n in range(1, count + 1)]
    objects = [
        {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [9, 9, 30, 30], "area": 900, "iscrowd": 0}
        for n in range(1, count + 1)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))


@pytest.mark.parametrize("channels", [1, 6, *slow(4)])
def test_training_evaluation_and_prediction_read_the_models_number_of_channels(
    tmp_path, without_curves, channels
) -> None:
    write_data(tmp_path / "data", channels)
    path = write_config(tmp_path / "bands.py", channels)
    root = ["--data-root", str(tmp_path / "data")]
    assert main(["train", path, *root, "--work-dir", str(tmp_path / "run")]) == 0
    trained = str(tmp_path / "run/epoch_1.pt")
    assert main(["test", path, trained, *root]) == 0
    assert main(["browse", path, *root, "--out", str(tmp_path / "browse"), "--count", "2"]) == 0
    image = str(tmp_path / "data/images/1.tif")
    assert main(["predict", path, trained, image, "--out", str(tmp_path / "out"), "--score-threshold", "0"]) == 0
    model = chordate.build_model(path, checkpoint=trained)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, channels), dtype=np.uint8)
    from_file, from_array = chordate.predict(model, [image, pixels], precision="fp32")
    assert torch.equal(from_file.boxes, from_array.boxes) and len(from_file.boxes)
    with pytest.raises(DataError, match=f"expected {channels} channels"):
        chordate.predict(model, np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize(("model", "data"), [(3, 5), (4, 3), (6, 4)])
def test_other_numbers_of_channels_are_a_one_line_error_before_training(tmp_path, capsys, model, data) -> None:
    write_data(tmp_path / "data", data)
    path = write_config(tmp_path / "bands.py", model)
    assert main(["train", path, "--data-root", str(tmp_path / "data"), "--work-dir", str(tmp_path / "run")]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("chordate train: "))
    assert f"1.tif: the image has {data} channels, but the model takes {model}" in line
    assert not list((tmp_path / "run").glob("*.pt"))
