"""`chordate features` writes feature vectors: the backbone's feature maps, averaged over their positions."""

import json

import numpy as np
import pytest
import safetensors
import torch
from class_folders import write_folders
from loading import checkpoint_of

import chordate
from chordate.cli.main import main
from chordate.data.image_io import read_image

CONFIG = """
model = dict(type="ImageClassifier", backbone=dict(type="resnet20_cifar", out=["c2", "c4"]))
train_data = dict(
    dataset=dict(type="ImageFolder", images="train"),
    pipeline=[dict(type="RandomResizedCrop", size=32)],
    batch_size=4,
    workers=0,
)
val_data = dict(
    dataset=dict(type="ImageFolder", images="val"), pipeline=[dict(type="CenterCrop", size=24)], batch_size=4, workers=0
)
metric = dict(type="AccuracyMetric")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data root that contains the config `x.py` and the checkpoint `x.pt` of a classifier; and the classifier."""
    root = tmp_path_factory.mktemp("trained")
    write_folders(root, {"train": 3, "val": 2}, side=24)
    (root / "x.py").write_text(CONFIG)
    torch.manual_seed(0)
    model = chordate.build_model(root / "x.py", classes=["cat", "dog"]).eval()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
    torch.save(checkpoint_of(model), root / "x.pt")
    return root, model


def by_hand(model, file) -> dict[str, torch.Tensor]:
    """The backbone's feature maps for the central 24×24 pixels of an image, each averaged over its positions."""
    image = read_image(file)
    left = round((image.shape[-1] - 24) / 2)
    image = image[None, :, :, left : left + 24].float()
    images = (image - model.preprocess.mean) / model.preprocess.std
    with torch.no_grad():
        return {name: x.mean((2, 3))[0] for name, x in model.backbone(images).items()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_features_of_a_dataset_are_the_pooled_features_of_its_images(trained, split, tmp_path):
    root, model = trained
    out = tmp_path / "deep/f.npz"
    files = [str(root / "x.py"), str(root / "x.pt")]
    assert main(["features", *files, "--data-root", str(root), "--data", split, "--out", str(out)]) == 0
    archive = np.load(out)
    assert sorted(archive["files"]) == sorted(str(path) for path in (root / split).rglob("*.png"))
    assert archive["classes"].tolist() == ["blue", "green", "red"]
    for row, file, label in zip(archive["features"], archive["files"], archive["labels"], strict=True):
        assert file.split("/")[-2] == archive["classes"][label]
        np.testing.assert_allclose(row, by_hand(model, file)["c4"], rtol=1e-4, atol=1e-5)


def test_pooled_features_of_a_named_feature_map_are_written_as_safetensors(trained, tmp_path):
    root, model = trained
    out, folder = tmp_path / "f.safetensors", root / "val/red"
    files = [str(root / "x.py"), str(root / "x.pt"), str(folder), str(root / "val/blue/1.png")]
    assert main(["features", *files, "--map", "c2", "--out", str(out)]) == 0
    with safetensors.safe_open(out, "pt") as archive:
        assert list(archive.keys()) == ["features"]
        names, rows = json.loads(archive.metadata()["files"]), archive.get_tensor("features")
    assert names == [*(str(path) for path in sorted(folder.iterdir())), files[-1]]
    for row, file in zip(rows, names, strict=True):
        torch.testing.assert_close(row, by_hand(model, file)["c2"], rtol=1e-4, atol=1e-5)


def test_features_are_the_same_for_a_batch_and_per_image(trained):
    root, model = trained
    files = sorted(str(path) for path in (root / "val").rglob("*.png"))
    rows = chordate.features(model, files, batch_size=4)
    torch.testing.assert_close(rows, torch.stack([by_hand(model, file)["c4"] for file in files]), rtol=1e-4, atol=1e-5)


def test_a_detectors_feature_maps_are_averaged_without_their_padding():
    torch.manual_seed(0)
    model = chordate.build_model("faster-rcnn_r18_fpn_demo_shapes", num_classes=2, pretrained=False).eval()
    model.pipeline = []
    image = torch.randint(0, 256, (3, 64, 50), dtype=torch.uint8)
    vectors = chordate.features(model, image, map="c2")
    normalized = (image.float() - model.preprocess.mean) / model.preprocess.std
    with torch.no_grad():
        cells = model.backbone(torch.nn.functional.pad(normalized, (0, 14))[None])["c2"]
    torch.testing.assert_close(vectors[0], cells[0, :, :, :13].mean((1, 2)))
    with pytest.raises(chordate.ChordateError, match="no default feature vectors; set map .--map. to one of c2, c3"):
        chordate.features(model, image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "f.csv"], ".npz or .safetensors"),
        (["--out", "f.npz", "--map", "c3"], 'unknown feature map of the backbone "c3"'),
        (["nowhere.png", "--out", "f.npz"], "no such image file"),
    ],
)
def test_an_error_of_the_features_command_is_one_line(trained, arguments, message, tmp_path, monkeypatch, capsys):
    root, _ = trained
    monkeypatch.chdir(tmp_path)
    assert main(["features", str(root / "x.py"), str(root / "x.pt"), *arguments, "--data-root", str(root)]) == 2
    assert message in capsys.readouterr().err and not any(tmp_path.iterdir())
