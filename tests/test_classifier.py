"""The classifier: scores as in torchvision, losses and augmentation by their formulas, accuracy on class folders."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from backbone_referee import randomize, slow
from class_folders import write_folders
from detection_toys import assert_never_waits
from rich.console import Console
from timm.loss import BinaryCrossEntropy
from torchvision.transforms import v2

import chordate
from chordate import BACKBONES, Backbone, FeatureSpec
from chordate.arguments import PositiveInt
from chordate.cli.main import main
from chordate.errors import ConfigError
from chordate.evaluation import AccuracyMetric
from chordate.heads import ClassificationHead
from chordate.structures import Batch, Classification, ClassTargets, DatasetMeta, ImageInfo

FEATURES = {"c5": FeatureSpec(8, 4)}


@BACKBONES.register_module()
class Colors(Backbone):
    """A backbone of two convolutions, which suffices to classify colors."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2, 1))
        self.out_features = {"c5": FeatureSpec(8, 4)}

    def forward(self, images):
        return {"c5": self.conv(images)}


def classifier(**settings) -> torch.nn.Module:
    torch.manual_seed(0)
    return chordate.build_model({"type": "ImageClassifier", "backbone": "Colors", **settings}, num_classes=4)


def batch_of(images: torch.Tensor, labels: list[int] | None = None) -> Batch:
    sizes = torch.tensor([images.shape[-2:]] * len(images))
    infos = [ImageInfo(i, f"{i}.png", *images.shape[-2:]) for i in range(len(images))]
    return Batch(images, sizes, infos, None if labels is None else ClassTargets(torch.tensor(labels)))


# ResNet-50 is marked slow, since test_resnet.py always compares its feature maps with torchvision's.
@pytest.mark.parametrize("name", ["resnet18", *slow("resnet50")])
def test_resnet_classifiers_with_torchvisions_weights_have_its_scores(name):
    theirs = torchvision.models.get_model(name, weights=None, num_classes=11)
    randomize(theirs)
    model = chordate.build_model({"type": "ImageClassifier", "backbone": name}, num_classes=11, pretrained=False)
    report = chordate.load_checkpoint(model, theirs.state_dict())
    assert not report.skipped and not report.missing
    images = torch.randn(2, 3, 65, 80)
    with torch.no_grad():
        wanted = theirs.eval()(images)
        assert wanted.std() > 0.1
        torch.testing.assert_close(model.eval().logits(images), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_are_those_of_torch_and_timm(smoothing, soft):
    torch.manual_seed(1)
    logits = torch.randn(5, 4)
    truth = torch.rand(5, 4).softmax(1) if soft else torch.tensor([0, 3, 1, 1, 2])
    shares = truth if soft else F.one_hot(truth, 4).float()
    smooth = shares * (1 - smoothing) + smoothing / 4
    wanted = -(smooth * logits.log_softmax(1)).sum(1).mean()
    head = ClassificationHead(FEATURES, 4, label_smoothing=smoothing)
    torch.testing.assert_close(head.loss(logits, truth)["cls"], wanted)
    head = ClassificationHead(FEATURES, 4, loss="binary", label_smoothing=smoothing)
    # timm does not smooth soft labels, so its loss gets labels that are already smooth.
    theirs = BinaryCrossEntropy(smoothing=0.0)(logits, smooth)
    torch.testing.assert_close(head.loss(logits, truth)["cls"], theirs)


def test_binary_losses_start_from_low_class_probabilities():
    head = ClassificationHead(FEATURES, 1000, loss="binary")
    scores = head.probabilities(head({"c5": torch.zeros(1, 8, 2, 2)})).detach()
    assert scores.numpy() == pytest.approx(1 / 1001, rel=1e-3)


def test_mixed_images_and_labels_equal_torchvisions():
    model = classifier(mix=[{"type": "MixUp", "alpha": 0.4}])
    images, labels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), [0, 1, 2, 3, 0, 1]
    batch = batch_of(images, labels)
    torch.manual_seed(7)
    loss = model.train()(batch)["cls"]
    torch.manual_seed(7)
    torch.randint(1, ())
    normalized = model.preprocess(images, batch.sizes)
    mixed, truth = v2.MixUp(alpha=0.4, num_classes=4)(normalized, batch.targets.labels)
    assert not torch.equal(mixed, normalized)
    torch.testing.assert_close(loss, F.cross_entropy(model.logits(mixed), truth))


def test_several_mixing_augmentations_alternate():
    """With the same random numbers, each result equals torchvision's MixUp or CutMix; about half of them are MixUp."""
    model = classifier(mix=[{"type": "MixUp", "alpha": 0.8}, {"type": "CutMix", "alpha": 1.0}])
    theirs = [v2.MixUp(alpha=0.8, num_classes=4), v2.CutMix(alpha=1.0, num_classes=4)]
    batch, drawn = batch_of(torch.randn(6, 3, 16, 16), [0, 1, 2, 3, 0, 1]), []
    for seed in range(100):
        torch.manual_seed(seed)
        mixed = model.augment_batch(batch)
        torch.manual_seed(seed)
        drawn.append(int(torch.randint(2, ())))
        wanted, shares = theirs[drawn[-1]](batch.images, batch.targets.labels)
        assert torch.equal(mixed.images, wanted) and torch.equal(mixed.targets.labels, shares)
    assert 35 < sum(drawn) < 65


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mix", [[], [{"type": "MixUp", "alpha": 0.8}, {"type": "CutMix", "alpha": 1.0}]])
def test_a_classifiers_training_step_has_no_host_sync(monkeypatch, mix):
    batches = [batch_of(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), [0, 1, 2, 3]) for _ in range(2)]
    assert_never_waits(monkeypatch, classifier(mix=mix).train(), *batches)


def test_a_training_step_compiles_as_one_graph():
    model = classifier().train()
    batch = batch_of(torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), [0, 1, 2, 3])
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(batch), model(batch))


def test_ten_crops_are_the_corners_the_center_and_their_mirror_images():
    model = classifier(tta={"type": "ten_crop", "size": 16}).eval()
    images = torch.randint(0, 256, (2, 3, 20, 26), dtype=torch.uint8)
    batch = batch_of(images)
    x = model.preprocess(images, batch.sizes)
    crops = [x[:, :, top : top + 16, left : left + 16] for top, left in ((0, 0), (0, 10), (4, 0), (4, 10), (2, 5))]
    wanted = torch.stack([model.logits(c).softmax(1) for c in [*crops, *(c.flip(3) for c in crops)]]).mean(0)
    torch.testing.assert_close(torch.stack([one.scores for one in model(batch)]), wanted)


def test_several_scales_average_over_sizes_and_mirror_images():
    model = classifier(tta={"type": "multi_scale", "sizes": [16, 24]}).eval()
    images = torch.randint(0, 256, (2, 3, 16, 20), dtype=torch.uint8)
    batch = batch_of(images)
    x = model.preprocess(images, batch.sizes)
    large = v2.functional.resize(x, [24, 30], antialias=True)
    wanted = torch.stack([model.logits(v).softmax(1) for v in (x, x.flip(3), large, large.flip(3))]).mean(0)
    torch.testing.assert_close(
        torch.stack([prediction.scores for prediction in model(batch)]), wanted, rtol=1e-4, atol=1e-5
    )


class CenterCrop:
    """A test-time augmentation from outside the package."""

    def __init__(self, size: PositiveInt):
        self.size = size

    def __call__(self, images, score):
        return score(v2.functional.center_crop(images, [self.size]))


def test_a_custom_test_time_augmentation_is_used_and_its_settings_are_validated():
    model = classifier(tta={"type": CenterCrop, "size": 16}).eval()
    batch = batch_of(torch.randint(0, 256, (2, 3, 20, 26), dtype=torch.uint8))
    crop = model.preprocess(batch.images, batch.sizes)[:, :, 2:18, 5:21]
    torch.testing.assert_close(torch.stack([one.scores for one in model(batch)]), model.logits(crop).softmax(1))
    with pytest.raises(ConfigError, match=r"model\.tta\.size must be ≥ 1, got 0"):
        classifier(tta={"type": CenterCrop, "size": 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tta": {"type": "ten_crops", "size": 3}}, 'did you mean "ten_crop"'),
        ({"tta": {"type": "ten_crop", "sizes": [3]}}, 'unknown setting .*"sizes"; did you mean "size"'),
        (
            {"head": {"type": "ClassificationHead", "loss": "bce"}},
            r'loss must be one of "softmax", "binary".*got "bce"',
        ),
        ({"head": {"type": "ClassificationHead", "dropout": 2}}, r"dropout must be ≥ 0 and < 1, got 2"),
        ({"head": {"type": "ClassificationHead", "dropout": 1.0}}, r"dropout must be ≥ 0 and < 1, got 1.0"),
        ({"tta": "ten_crop"}, 'tta must be a dict or None, got "ten_crop"'),
        ({"mix": [{"type": "MixUpp"}]}, 'did you mean "MixUp"'),
        ({"mix": {"type": "MixUp", "alpha": 1.0}}, "mix must be a list of dicts"),
        ({"mix": ["MixUp"]}, 'mix.0 must be a dict, got "MixUp"'),
        (
            {"preprocess": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}},
            "multiply them by 255, since pixels are 0 … 255",
        ),
    ],
)
def test_a_wrong_setting_of_a_classifier_is_a_one_line_error(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        classifier(**settings)
    assert "\n" not in str(error.value)


def test_accuracy_is_the_fraction_of_correct_predictions():
    """The metric gets two overlapping batches, and counts each image once; the reference uses all scores at once."""
    random = np.random.default_rng(0)

    class Data:
        meta = DatasetMeta(classes=tuple("abcdefg"))
        labels = random.integers(0, 7, 40)

    scores = random.random((40, 7)).astype(np.float32)
    metric = AccuracyMetric(Data())
    for chunk in (range(15), range(10, 40)):
        infos = [ImageInfo(i, f"{i}.png", 1, 1) for i in chunk]
        targets = ClassTargets(torch.from_numpy(Data.labels[list(chunk)]))
        batch = Batch(torch.zeros(len(chunk), 3, 1, 1), torch.ones(len(chunk), 2), infos, targets)
        metric.update([Classification(torch.from_numpy(scores[i])) for i in chunk], batch)
    numbers = metric.compute()
    ranks = (scores > scores[np.arange(40), Data.labels][:, None]).sum(1)
    assert numbers == pytest.approx(
        {"top1": (ranks < 1).mean(), "top5": (ranks < 5).mean(), "error": (ranks > 0).mean()}
    )
    per_class = metric.per_class()
    assert sum(row["images"] for row in per_class.values()) == 40
    assert per_class["c"]["top1"] == pytest.approx((ranks[Data.labels == 2] < 1).mean())
    assert metric.predictions()[3]["file"] == "3.png"
    assert metric.predictions()[3]["class"] == Data.meta.classes[Data.labels[3]]
    assert metric.predictions()[3]["classes"][0]["class"] == Data.meta.classes[scores[3].argmax()]


def test_a_table_of_many_classes_lists_the_hardest():
    class Data:
        meta = DatasetMeta(classes=tuple(f"class {i}" for i in range(100)))

    metric = AccuracyMetric(Data())
    infos = [ImageInfo(i, "", 1, 1) for i in range(100)]
    right = torch.eye(100)
    right[[7, 30]] = right[[30, 7]]  # each of these classes is predicted as the other
    batch = Batch(torch.zeros(100, 1), torch.ones(100, 2), infos, ClassTargets(torch.arange(100)))
    metric.update([Classification(row) for row in right], batch)
    metric.compute()
    console = Console(width=80)
    with console.capture() as captured:
        console.print(metric.table())
    lines = captured.get().splitlines()
    assert "the 40 hardest of 100 classes" in lines[0] or "the 40 hardest of 100 classes" in lines[1]
    listed = [line.split()[:3] for line in lines if "class " in line and "top-1" not in line and "hardest" not in line]
    assert len(listed) == 40 and [row[1:] for row in listed[:2]] == [["7", "0.00"], ["30", "0.00"]]
    assert "98.00" in lines[-2] or "98.00" in lines[-1]


def test_from_class_folders_to_accuracy_by_the_commands(tmp_path, capsys):
    write_folders(tmp_path / "photos", {"train": 12, "val": 6})
    config = tmp_path / "colors.py"
    config.write_text(
        """
model = dict(type="ImageClassifier", backbone="Colors")
train_data = dict(
    dataset=dict(type="ImageFolder", images="train"),
    pipeline=[dict(type="RandomResizedCrop", size=16), dict(type="RandomHorizontalFlip")],
    batch_size=9,
    workers=0,
)
val_data = dict(
    dataset=dict(type="ImageFolder", images="val"), pipeline=[dict(type="CenterCrop", size=16)], batch_size=6, workers=0
)
metric = dict(type="AccuracyMetric")
optimizer = dict(type="AdamW", lr=2e-2)
train = dict(epochs=6, eval_every=3, save_best="top1", log_every=2, tensorboard=False)
"""
    )
    data, run = ["--data-root", str(tmp_path / "photos")], tmp_path / "run"
    assert main(["train", str(config), "--work-dir", str(run), *data]) == 0
    assert (run / "training.png").stat().st_size > 1000
    out, predictions = tmp_path / "metrics.json", tmp_path / "predictions.json"
    test = ["test", str(config), str(run / "best_top1.pt"), "--out", str(out), "--predictions", str(predictions), *data]
    assert main(test) == 0
    assert "green" in capsys.readouterr().out
    assert json.loads(out.read_text())["top1"] >= 0.9
    assert len(json.loads(predictions.read_text())) == 18
    model = chordate.build_model(config, checkpoint=run / "best_top1.pt")
    assert model.classes == ("blue", "green", "red")
    (predictions,) = chordate.predict(model, np.full((30, 30, 3), (200, 60, 60), np.uint8))
    assert model.classes[predictions.top(1)[0][0]] == "red"
