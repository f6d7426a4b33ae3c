"""Ensembles of classifiers in `chordate test`; `chordate predict` with a single classifier."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from class_folders import write_folders

import chordate
from chordate.cli.ensemble import EnsembleMetric
from chordate.cli.main import main
from chordate.registry import METRICS
from chordate.structures import Batch, Classification, ClassTargets, DatasetMeta, ImageInfo

CONFIG = """
model = dict(type="ImageClassifier", backbone=dict(type="{backbone}"))
val_data = dict(
    dataset=dict(type="ImageFolder", images="val"),
    pipeline=[dict(type="Resize", size=[{side}, {side}])],
    batch_size=4,
    workers=0,
)
metric = dict(type="AccuracyMetric")
"""


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> tuple[Path, list[str]]:
    """A data root, and the paths of three untrained classifiers with different pipelines, as a flat list: config,
    checkpoint, config, …"""
    root = tmp_path_factory.mktemp("members")
    write_folders(root, {"val": 3}, side=24)
    names = []
    for number, (backbone, side) in enumerate((("resnet20_cifar", 32), ("resnet20_cifar", 24), ("plain20_cifar", 20))):
        config = root / f"{number}.py"
        config.write_text(CONFIG.format(backbone=backbone, side=side))
        torch.manual_seed(number)
        model = chordate.build_model(config, classes=["blue", "green", "red"])
        torch.nn.init.normal_(model.head.fc.weight, std=3)
        path = root / f"{number}.pt"
        torch.save({"chordate": 2, "model": model.state_dict(), "meta": model.meta.to_dict()}, path)
        names += [str(config), str(path)]
    return root, names


def test_an_ensemble_is_the_mean_of_its_members_probabilities(members, tmp_path, capsys):
    root, names = members
    out, predictions = tmp_path / "m.json", tmp_path / "f.json"
    assert main(["test", *names, "--data-root", str(root), "--out", str(out), "--predictions", str(predictions)]) == 0
    files = sorted(path for path in (root / "val").rglob("*.png"))
    sums = torch.zeros(len(files), 3)
    singles = []
    for config, checkpoint in zip(names[::2], names[1::2]):
        model = chordate.build_model(config, checkpoint=checkpoint)
        scores = torch.stack([prediction.scores for prediction in chordate.predict(model, files, precision="fp32")])
        singles.append(scores)
        sums += scores
    mean = sums / 3
    truth = torch.tensor([("blue", "green", "red").index(file.parent.name) for file in files])
    assert json.loads(out.read_text())["top1"] == pytest.approx((mean.argmax(1) == truth).float().mean().item())
    for row, file, scores in zip(json.loads(predictions.read_text()), files, mean, strict=True):
        assert (root / "val" / row["file"]) == file
        best, labels = scores.sort(descending=True)
        assert [entry["class"] for entry in row["classes"]] == [("blue", "green", "red")[label] for label in labels]
        assert [entry["score"] for entry in row["classes"]] == pytest.approx(best.tolist(), abs=2e-4)
    output = capsys.readouterr().out.replace("\n", "")
    for checkpoint, scores in zip(names[1::2], singles):
        assert f"{Path(checkpoint).name} alone: top1 {(scores.argmax(1) == truth).float().mean():.4f}" in output


def test_an_ensemble_of_a_model_and_itself_has_the_models_metrics(members, tmp_path):
    root, names = members
    metrics = []
    for models in (names[:2], [*names[:2], *names[:2]]):
        out = tmp_path / f"{len(models)}.json"
        assert main(["test", *models, "--data-root", str(root), "--out", str(out)]) == 0
        metrics.append(json.loads(out.read_text()))
    assert metrics[0] == metrics[1]


def test_models_that_form_no_ensemble_are_refused(members, tmp_path, capsys):
    root, names = members
    data = ["--data-root", str(root)]

    def error_of(*arguments: str) -> str:
        assert main(["test", *arguments, *data]) == 2
        return capsys.readouterr().err

    assert "must be followed by its CHECKPOINT" in error_of(*names[:3])
    assert "leave it out for an ensemble" in error_of(*names[:4], "--picture", str(tmp_path / "x.png"))
    other = tmp_path / "other.pt"
    saved = torch.load(names[1], weights_only=True)
    torch.save({**saved, "meta": {**saved["meta"], "classes": ["blue", "green", "rouge"]}}, other)
    line = error_of(*names[:2], names[0], str(other))
    assert "blue, green, rouge" in line and "an ensemble needs equal metadata" in line


def test_members_are_averaged_per_image_whatever_their_batches():
    """The members receive the images in different orders; an image that a member receives twice counts once."""
    random = torch.Generator().manual_seed(0)
    scores, truth = torch.rand(3, 20, 4, generator=random), torch.randint(4, (20,), generator=random)
    dataset = SimpleNamespace(meta=DatasetMeta(classes=tuple("abcd")))
    metric = EnsembleMetric(METRICS.build("AccuracyMetric", dataset=dataset))
    for member, order in zip(scores, ([*range(20), 3], reversed(range(20)), range(20))):
        for ids in torch.tensor(list(order)).split(6):
            infos = [ImageInfo(int(i), f"{i}.png", 1, 1) for i in ids]
            batch = Batch(torch.zeros(len(ids), 3, 1, 1), torch.ones(len(ids), 2), infos, ClassTargets(truth[ids]))
            metric.update([Classification(row) for row in member[ids]], batch)
        assert metric.compute()["top1"] == pytest.approx((member.argmax(1) == truth).float().mean().item())
    assert metric.compute_mean()["top1"] == pytest.approx((scores.mean(0).argmax(1) == truth).float().mean().item())


def test_a_detector_in_an_ensemble_is_refused(shapes, tmp_path, capsys):
    config = "faster-rcnn_r18_fpn_demo_shapes"
    classes = [c["name"] for c in json.loads((shapes / "annotations/val.json").read_text())["categories"]]
    model = chordate.build_model(config, classes=classes, pretrained=False)
    path = tmp_path / "d.pt"
    torch.save({"chordate": 2, "model": model.state_dict(), "meta": model.meta.to_dict()}, path)
    options = ["--data-root", str(shapes), "--cfg-options", "val_data.workers=0"]
    assert main(["test", config, str(path), config, str(path), *options]) == 2
    assert "Detections cannot be averaged" in capsys.readouterr().err


def test_predict_writes_the_best_classes_and_draws_the_best_one(members, tmp_path):
    root, names = members
    picture, out = root / "val/red/0.png", tmp_path / "drawn"
    assert main(["predict", *names[:2], str(picture), "--out", str(out), "--precision", "fp32"]) == 0
    (row,) = json.loads((out / "predictions.json").read_text())
    model = chordate.build_model(names[0], checkpoint=names[1])
    (prediction,) = chordate.predict(model, picture, precision="fp32")
    assert row["file"] == str(picture) and [entry["class"] for entry in row["classes"]] == [
        model.classes[label] for label, _ in prediction.top(5)
    ]
    assert sum(entry["score"] for entry in row["classes"]) == pytest.approx(1, abs=1e-3)
    drawn = cv2.imread(str(out / "0_prediction.png"))
    assert max(drawn.shape[:2]) == 640  # the image is enlarged, so that the class name is legible
    assert not (out / "detections.json").exists()


def test_a_sheet_of_classified_images_is_drawn(members, tmp_path):
    root, names = members
    sheet = tmp_path / "sheet.png"
    assert main(["test", *names[:2], "--data-root", str(root), "--picture", str(sheet)]) == 0
    assert sheet.stat().st_size > 10_000
