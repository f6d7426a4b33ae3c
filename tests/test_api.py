"""The Python API: building by name, and predicting on every type of image input."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from loading import checkpoint_of
from PIL import Image

import chordate
from chordate.errors import CheckpointError, ConfigError, DataError
from chordate.visualization import draw

DEMO = "faster-rcnn_r18_fpn_demo_shapes"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = chordate.build_model(DEMO, classes=["circle", "star", "ring"], pretrained=False)
    with torch.no_grad():  # an untrained box predictor would score all classes almost equally
        model.box.cls_score.weight.normal_(0, 0.3)
        model.box.cls_score.bias[-1] = -10  # lowers the background logit, so that there are detections
    return model.eval()


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def test_a_model_knows_its_classes():
    assert chordate.build_model(DEMO, num_classes=3, pretrained=False).classes == ("class 0", "class 1", "class 2")
    coco = chordate.build_model("faster-rcnn_r18_fpn_1x_coco", pretrained=False)
    assert len(coco.classes) == 80 and coco.classes[0] == "person" and coco.classes[-1] == "toothbrush"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "does not define the classes"),
        ({"num_classes": 0}, "num_classes must be ≥ 1"),
        ({"num_classes": "3"}, "num_classes must be an integer ≥ 1"),
        ({"num_classes": 2, "classes": ["a"]}, "pass only one of them"),
        ({"classes": "circle"}, "a list of one or more distinct names"),
    ],
)
def test_unclear_classes_are_an_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        chordate.build_model(DEMO, pretrained=False, **arguments)


def test_a_trained_model_is_built_with_the_classes_of_its_checkpoint(model, tmp_path):
    torch.save(checkpoint_of(model), tmp_path / "best.pt")
    loaded = chordate.build_model(DEMO, checkpoint=tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"best.pt was trained on other data .* model has classes 3 .cat"):
        chordate.build_model(DEMO, checkpoint=tmp_path / "best.pt", classes=["cat", "dog", "owl"])
    assert loaded.classes == ("circle", "star", "ring")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert len(loaded.load_report.loaded) > 50 and not loaded.load_report.missing


def test_a_checkpoint_without_class_names_needs_them_as_an_argument(model):
    with pytest.raises(ConfigError, match="does not define the classes, nor does the state dict"):
        chordate.build_model(DEMO, checkpoint=model.state_dict())
    assert chordate.build_model(DEMO, checkpoint=model.state_dict(), num_classes=3).classes[2] == "class 2"


def test_a_model_is_built_from_the_model_part_alone():
    part = chordate.load_config(DEMO).model.to_dict()
    assert chordate.build_model(part, num_classes=2, pretrained=False).classes == ("class 0", "class 1")


def test_names_are_listed_by_pattern():
    assert {"resnet18", "resnet50", "resnet152"} <= set(chordate.list_backbones("*resnet*"))
    assert "faster-rcnn_r50_fpn_1x_coco" in chordate.list_models("faster*")
    assert chordate.list_models("no such*") == []


def test_a_misspelled_backbone_in_a_config_is_named_when_it_is_built():
    config = chordate.load_config(DEMO, {"model.backbone.type": "Resnet50"})
    with pytest.raises(ConfigError, match='unknown backbone "Resnet50"; did you mean'):
        chordate.build_model(config, num_classes=2, pretrained=False)


def test_the_error_for_a_neck_that_does_not_fit_its_backbone_names_both():
    config = chordate.load_config(DEMO, {"model.neck.inputs": ["c2", "c6"]})
    with pytest.raises(ConfigError, match=r'FPN needs .*"c2", "c6", but ResNet-18 \(24 wide\) offers c2 .* no "c6"'):
        chordate.build_model(config, num_classes=2, pretrained=False)


def same(a, b):
    assert len(a) == len(b) > 0
    torch.testing.assert_close(a.boxes, b.boxes)
    torch.testing.assert_close(a.scores, b.scores)
    assert torch.equal(a.labels, b.labels)


def test_predictions_do_not_depend_on_the_type_of_the_image(model, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    (expected,) = chordate.predict(model, picture)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    palette = Image.fromarray(picture).quantize(64)
    (through_palette,) = chordate.predict(model, np.array(palette.convert("RGB")))
    same(chordate.predict(model, palette)[0], through_palette)
    images = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(picture), tensor, tensor[None], tensor / 255]
    images += [picture.astype(np.uint16), picture.astype(np.int64)]
    for image in images:
        (detections,) = chordate.predict(model, image)
        same(detections, expected)


def test_predict_returns_one_prediction_per_image_in_original_pixels(model, picture):
    small, gray = picture[:40, :50], picture[..., 0]
    results = chordate.predict(model, [picture, small, gray])
    assert len(results) == 3
    for image, detections in zip([picture, small, gray], results):
        height, width = image.shape[:2]
        assert (detections.boxes[:, 0::2] <= width).all() and (detections.boxes[:, 1::2] <= height).all()
        assert (detections.boxes >= 0).all()
    same(chordate.predict(model, small)[0], results[1])


def test_the_score_threshold_drops_detections_below_it(model, picture):
    (all_detections,) = chordate.predict(model, picture, precision="fp32")
    threshold = float(all_detections.scores.median())
    (kept,) = chordate.predict(model, picture, score_threshold=threshold, precision="fp32")
    assert 0 < len(kept) < len(all_detections)
    assert (kept.scores >= threshold).all()
    assert (kept.scores.diff() <= 0).all()


def test_a_model_in_training_mode_is_refused(model, picture):
    model.train()
    try:
        with pytest.raises(ConfigError, match=r"is in training mode; call model\.eval\(\) first"):
            chordate.predict(model, picture)
    finally:
        model.eval()


def test_a_part_in_training_mode_is_refused(model, picture):
    """In training mode, dropout is random and BatchNorm updates its statistics from the image."""
    part = model.backbone
    part.train()
    try:
        for call in (chordate.predict, partial(chordate.features, map="c2")):
            with pytest.raises(ConfigError, match=r"\.backbone is in training mode; call model\.eval\(\) first"):
                call(model, picture)
    finally:
        part.eval()


def test_eight_threads_at_once_predict_the_same_as_one():
    """Prediction changes neither the mode nor the state dict of the model, so threads do not affect each other."""
    classifier = chordate.build_model({"type": "ImageClassifier", "backbone": "resnet20_cifar"}, num_classes=10)
    detector = chordate.build_model(DEMO, num_classes=5, pretrained=False)
    torch.nn.init.normal_(detector.box.cls_score.weight, std=0.3)
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(4)]
    classifier.pipeline = detector.pipeline = []
    for model in (classifier, detector):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        alone = [chordate.predict(model, image)[0] for image in images]
        vectors = [chordate.features(model, image, map="c4") for image in images]
        with ThreadPoolExecutor(8) as pool:
            together = [*pool.map(partial(chordate.predict, model), 8 * images)]
            mapped = [*pool.map(partial(chordate.features, model, map="c4"), 8 * images)]
        for number, ((found,), vector) in enumerate(zip(together, mapped)):
            assert torch.equal(found.scores, alone[number % 4].scores) and len(found.scores)
            assert torch.equal(vector, vectors[number % 4])
        assert not model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5, 7), np.uint8), "3 channels"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (torch.full((3, 8, 8), 200.0), "0 … 1"),
        (np.full((8, 8, 3), 300), "0 … 255"),
        (np.zeros((8, 8, 3), bool), "0 … 255"),
        (np.full((8, 8, 3), 300, np.uint16), "0 … 255"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "0 … 255"),
        (np.array([["a.jpg"]]), "<U5 array cannot be read as an image"),
        (b"bytes", "bytes cannot be read as an image"),
        (torch.full((3, 8, 8), float("nan")), "0 … 1"),
        ("no/such/picture.jpg", "picture.jpg"),
        ("https://example.com/a.jpg", r"https://example.com/a.jpg: URLs are not supported; download the file first"),
    ],
)
def test_predicting_on_input_that_is_no_image_is_refused(model, image, message):
    with pytest.raises(DataError, match=message):
        chordate.predict(model, image)


def test_a_model_called_with_images_names_the_function_for_them(model):
    with pytest.raises(ConfigError, match=r"takes a Batch, got Tensor; use chordate\.predict\(model, images\)"):
        model(torch.rand(1, 3, 128, 128))


def test_a_model_called_with_images_and_targets_names_the_method_for_a_loss(model):
    with pytest.raises(ConfigError, match=r"takes a Batch, got Tensor, list; use model\.loss\(batch\)"):
        model(torch.rand(1, 3, 128, 128), [{"boxes": torch.zeros(0, 4)}])


def test_a_folder_is_predicted_as_the_sorted_list_of_its_images(model, picture, tmp_path):
    with pytest.raises(DataError, match="no images in this folder"):
        chordate.predict(model, tmp_path)
    paths = [tmp_path / name for name in ("a.png", "b/a.png", "c.png")]
    (tmp_path / "b").mkdir()
    for number, path in enumerate(paths):
        Image.fromarray(picture[: 90 - 20 * number]).save(path)
    folder = chordate.predict(model, str(tmp_path))
    for detections, expected in zip(folder, chordate.predict(model, paths), strict=True):
        same(detections, expected)


def test_a_prediction_is_drawn_on_any_kind_of_image(model, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    (detections,) = chordate.predict(model, picture)
    expected = draw(detections, picture, model.meta, score_threshold=0.1)
    assert not np.array_equal(expected, draw(detections, picture, model.meta, score_threshold=1))
    for image in (tmp_path / "a.png", picture, Image.fromarray(picture), torch.from_numpy(picture).permute(2, 0, 1)):
        drawn = chordate.draw(detections, image, model.meta, score_threshold=0.1)
        np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        (lambda detections, meta: (detections, "a.png"), "Detections, str"),
        (lambda detections, meta: ("a.png", detections, meta), "str, Detections, meta"),
        (lambda detections, meta: ([detections], "a.png", meta), "list, str, meta"),
        (lambda detections, meta: (detections, ["a.png", "b.png"], meta), "Detections, list, meta"),
    ],
)
def test_drawing_with_other_arguments_names_the_right_ones(model, picture, arguments, got):
    (detections,) = chordate.predict(model, picture)
    with pytest.raises(ConfigError, match=rf"call draw\(prediction, image, model\.meta\).* got draw\({got}\)"):
        chordate.draw(*arguments(detections, model.meta))


def test_an_unknown_precision_is_refused(model, picture):
    with pytest.raises(ConfigError, match='precision must be one of "auto", "fp32", "bf16"'):
        chordate.predict(model, picture, precision="fp8")


def test_a_batch_size_below_one_image_is_refused(model, picture):
    with pytest.raises(ConfigError, match="batch_size must be ≥ 1, got 0"):
        chordate.predict(model, picture, batch_size=0)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("predict", {"score_thr": 0.3}, 'predict "score_thr"; did you mean "score_threshold"'),
        ("predict", {"conf": 0.3}, 'predict "conf"; did you mean "score_threshold"'),
        ("features", {"batchsize": 2}, 'features "batchsize"; did you mean "batch_size"'),
        ("draw", {"score_thr": 0.3}, 'draw "score_thr"; did you mean "score_threshold"'),
        ("build_model", {"num_class": 3}, 'build_model "num_class"; did you mean "num_classes"'),
        ("train", {"epochs": 1}, 'train "epochs"; the settings of a run, such as train.epochs, are in its config'),
    ],
)
def test_an_unknown_argument_of_a_public_function_is_answered_with_the_right_one(function, arguments, message):
    with pytest.raises(ConfigError, match=f"unknown setting of {message}"):
        getattr(chordate, function)(DEMO, "a.jpg", **arguments)


@pytest.mark.parametrize(
    ("name", "ours"), [("create_model", "build_model"), ("get_model", "build_model"), ("inference_detector", "predict")]
)
def test_a_function_of_another_framework_is_answered_with_ours(name, ours):
    assert ours in chordate.__all__ and not hasattr(chordate, name)
    with pytest.raises(AttributeError, match=f"^module 'chordate' has no attribute '{name}'; use chordate.{ours}$"):
        getattr(chordate, name)
