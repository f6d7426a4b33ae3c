"""Exported models: the padded predictions against `Model.predict`, and files of every format against the model."""

import functools
import importlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detection_toys import random_boxes
from doc_pages import blocks, page
from loading import checkpoint_of
from test_nms import candidates, one_group_at_a_time
from test_panoptic_models import BACKBONE, panoptic_deeplab, panoptic_fpn
from torch import nn

import chordate
from chordate.cli.main import main
from chordate.data.coco_classes import COCO_SKELETON
from chordate.deployment.exportable import Exportable
from chordate.deployment.fold_norms import fold_norms
from chordate.deployment.formats import FORMATS, torchvision_padded_nms, torchvision_program
from chordate.deployment.parity import TOLERANCE, compare, paired
from chordate.errors import ConfigError
from chordate.ops.heatmaps import heatmaps_to_keypoints, keypoints_in_window
from chordate.ops.nms import padded_nms
from chordate.registry import MODELS
from chordate.structures import Batch, DatasetMeta, Detections, ImageInfo

META = DatasetMeta(("person", "cat", "dog"), COCO_SKELETON)
SIZE = (64, 96)
NECK = {"type": "FPN", "channels": 16}
SHORT = {**BACKBONE, "out": ["c3", "c4"]}  # every level makes the graphs larger, and their export slower
RPN = {"type": "RPNHead", "post_nms_topk": (50, 40), "anchors": {"sizes": [16, 32, 64]}}
BOX = {"type": "BoxHead", "trunk": {"type": "ConvFC", "fc_channels": 32}}
TWO_STAGE = {"type": "TwoStageDetector", "backbone": SHORT, "neck": NECK, "rpn": RPN, "box": BOX}
FEW = {**BOX, "detections_per_image": 12}
CASCADE = {"type": "CascadeHead", "stage": {"trunk": {"type": "ConvFC", "fc_channels": 32}}}
MASK = {"type": "MaskHead", "channels": 16, "convs": 1}
RETINA_NECK = {**NECK, "inputs": ["c3", "c4", "c5"], "extra": "p5"}
C4_BACKBONE = {**BACKBONE, "out": ["c4", "c5"]}
C4_HEADS = {"rpn": {**RPN, "anchors": {"sizes": [[16, 64]]}}, "box": {"type": "BoxHead", "resolution": 14}}
RETINA = {"type": "RetinaHead", "convs": 1}
RETINA_LAST = {**RETINA, "clip_before_nms": False}  # clips boxes after NMS
SEMANTIC = {"type": "SemanticFPNHead", "channels": 32}
POSE = {"type": "DeconvHead", "channels": 16}
TOYS = {
    "faster": TWO_STAGE,
    "mask": {**TWO_STAGE, "mask": MASK},
    "keypoint": {**TWO_STAGE, "box": FEW, "keypoint": {"type": "KeypointHead", "convs": 1, "channels": 16}},
    "cascade": {**TWO_STAGE, "box": CASCADE, "mask": MASK},
    "cascade of logits": {**TWO_STAGE, "box": {**CASCADE, "averaged": "logits"}},
    "c4": {"type": "TwoStageDetector", "backbone": C4_BACKBONE, "trunk": "c5", **C4_HEADS, "mask": MASK},
    "retina": {"type": "OneStageDetector", "backbone": BACKBONE, "neck": RETINA_NECK, "head": RETINA},
    "retina clipped last": {"type": "OneStageDetector", "backbone": BACKBONE, "neck": RETINA_NECK, "head": RETINA_LAST},
    "classifier": {"type": "ImageClassifier", "backbone": {"type": "CifarResNet", "depth": 8}},
    "semantic": {"type": "SemanticSegmenter", "backbone": BACKBONE, "neck": NECK, "head": SEMANTIC},
    "pose": {"type": "PoseEstimator", "backbone": BACKBONE, "head": POSE},
}


def build(name: str) -> nn.Module:
    """A small model with random weights and calibrated norms, whose scores differ between regions and classes."""
    torch.manual_seed(0)
    if name.startswith("panoptic"):
        model = panoptic_fpn() if name == "panoptic fpn" else panoptic_deeplab(center_threshold=0.0)
    else:
        model = MODELS.build(TOYS[name], meta=META)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        model.backbone(model.preprocess(photos().images, photos().sizes))
    model.eval()
    layers = {"cls_score": 2.0, "bbox_pred": 0.5, "masks": 1.0, "anchor_deltas": 0.5, "center.1": 5.0, "logits": 5.0}
    for key, module in model.named_modules():
        for layer, spread in layers.items():
            if key.endswith(layer):
                nn.init.normal_(module.weight, std=spread / module.weight[0].numel() ** 0.5)
    if name.startswith("retina"):
        nn.init.zeros_(model.head.cls_score.bias)
    if name == "panoptic fpn":
        nn.init.constant_(model.box.cls_score.bias, 1.0)
    if name == "panoptic deeplab":  # subtracts the outputs' means, so that all classes and some instances occur
        with torch.no_grad():
            maps = model.features(photos())
            model.semantic.logits.bias -= model.semantic(maps).mean((0, 2, 3))
            model.center.center[1].bias -= model.center.resize(model.center(maps), SIZE)[0].mean()
    return model


def photos(size: tuple[int, int] = SIZE, count: int = 2, padded: bool = True) -> Batch:
    """Images of 8 × 8 blocks with random values; with `padded`, the second image is smaller, and padded to `size`."""
    random = np.random.default_rng(size[0])
    images = torch.zeros(count, 3, *size, dtype=torch.uint8)
    sizes = torch.tensor([size] * count)
    for number, image in enumerate(images):
        if padded and number == 1:
            sizes[number] = torch.tensor((size[0] - 8, size[1] - 24))
        height, width = sizes[number].tolist()
        blocks = random.integers(0, 256, (3, 8, 8)).repeat(height // 8, 1).repeat(width // 8, 2)
        image[:, :height, :width] = torch.from_numpy(blocks)
    infos = [ImageInfo(i, f"{i}.png", *own) for i, own in enumerate(sizes.tolist())]
    return Batch(images, sizes, infos)


FAMILIES = [*TOYS, "panoptic fpn", "panoptic deeplab"]


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_padded_predictions_are_those_of_predict(name):
    model = build(name)
    batch = photos(padded=model.exports_sizes)
    expected = model.predict(batch)
    found = model.from_tensors(model.predict_tensors(batch.images, batch.sizes), batch)
    assert len(expected) == len(found) == 2
    for one, other in zip(expected, found):
        assert type(one) is type(other)
        for field, value in vars(one).items():
            torch.testing.assert_close(getattr(other, field), value, rtol=1e-4, atol=1e-4, check_dtype=field != "ids")
    if hasattr(expected[0], "__len__"):
        assert all(len(one) > 0 for one in expected), "nothing was compared"


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("nms", [padded_nms, torchvision_padded_nms])
def test_padded_nms_keeps_the_boxes_of_nms_per_group(nms, seed, threshold):
    boxes, scores, groups, valid = candidates(seed, images=3, count=60, groups=4)
    keep = nms(boxes, scores, torch.where(valid, groups, -1), threshold)
    assert torch.equal(keep, one_group_at_a_time(boxes, scores, groups, valid, threshold))


def test_keypoints_of_boxes_within_the_window_are_exact():
    torch.manual_seed(0)
    boxes = random_boxes(2, 6, span=200) + 0.3
    heatmaps = torch.randn(2, 6, 3, 14, 14)
    found = keypoints_in_window(heatmaps, boxes)
    for own, frames, points in zip(heatmaps, boxes, found):
        torch.testing.assert_close(points, heatmaps_to_keypoints(own, frames), rtol=1e-4, atol=1e-4)


def test_keypoints_of_large_boxes_are_found_around_the_peak():
    torch.manual_seed(0)
    corner = torch.rand(1, 20, 2) * 100
    boxes = torch.cat((corner, corner + 200 + 800 * torch.rand(1, 20, 2)), -1)
    cells = torch.arange(56.0)
    center = 4 + 48 * torch.rand(1, 20, 2, 2)
    squares = ((cells - center[..., 1:]) ** 2)[..., :, None] + ((cells - center[..., :1]) ** 2)[..., None, :]
    heatmaps = 10 * torch.exp(-squares / 8)
    found = keypoints_in_window(heatmaps, boxes)[0]
    torch.testing.assert_close(found, heatmaps_to_keypoints(heatmaps[0], boxes[0]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["faster", "semantic", "retina"])
@torch.no_grad()
def test_folded_norms_change_nothing(name):
    model, batch = build(name), photos(padded=False)
    folded = fold_norms(model)
    norms = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not norms
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) > 10, "the original was changed"
    expected = model.backbone(model.preprocess(batch.images, batch.sizes))
    found = folded.backbone(folded.preprocess(batch.images, batch.sizes))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()))


@functools.cache
def exportable(name: str, dynamic: bool = False, batch: int = 2) -> Exportable:
    model = build(name)
    height, width = (-(-side // model.size_divisor) * model.size_divisor for side in SIZE)
    return Exportable(model, (height, width), batch, dynamic)


@pytest.fixture(scope="module", autouse=True)
def shared_programs():
    """Cache the program that torch.export and TorchScript files of a model contain, since creating it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chordate.deployment.formats.torchvision_program", functools.cache(torchvision_program))
        yield
    exportable.cache_clear()


def exported(name: str, kind: str, folder, dynamic: bool = False, batch: int = 2):
    """A toy model as an Exportable, and a function that runs its exported file."""
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="needs the packages of the extra `export`")
    model = exportable(name, dynamic, batch)
    path = folder / f"model{FORMATS[kind].suffix}"
    FORMATS[kind].save(model, path)
    return model, FORMATS[kind].open(path, model)


def assert_equal_predictions(model: Exportable, run, batch: Batch) -> None:
    outputs = run(batch.images, batch.sizes) if model.model.exports_sizes else run(batch.images)
    parity = compare(model.model, lambda *_: outputs, [batch])
    assert all(ours == theirs > 0 for ours, theirs in parity.counts)
    assert parity.agrees and parity.differences, parity
    for field, worst in parity.differences.items():
        assert worst < {"boxes": 1e-3, "keypoints": 1e-3, "masks": TOLERANCE}.get(field, 1e-4), parity
    # Above, differing pixels are a fraction of the masks' own pixels; here, of all pixels, with a smaller limit.
    for ours, theirs in zip(model.model.predict(batch), model.model.from_tensors(outputs, batch), strict=True):
        if isinstance(ours, Detections) and ours.masks is not None:
            assert (ours.masks != paired(ours, theirs).masks).double().mean() < 1e-4


KINDS = [("mask", "torchscript"), ("retina", "torch-export"), ("faster", "onnx"), ("keypoint", "onnx")]
MORE = [("mask", "torch-export"), *((name, "onnx") for name in FAMILIES if (name, "onnx") not in KINDS)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [*KINDS, *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE)],
)
def test_files_predict_like_the_model(name, kind, tmp_path):
    model, run = exported(name, kind, tmp_path)
    assert_equal_predictions(model, run, photos(model.size, padded=model.model.exports_sizes))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("classifier", "torch-export"),
        ("retina", "onnx"),
        *(pytest.param(name, "onnx", marks=pytest.mark.slow) for name in ("mask", "keypoint", "semantic", "pose")),
    ],
)
def test_dynamic_files_take_any_size_and_number_of_images(name, kind, tmp_path):
    model, run = exported(name, kind, tmp_path, dynamic=True)
    low = -(-model.smallest // 32) * 32
    for count, size in ((1, (low, low + 32)), (3, (low + 64, low))):
        assert_equal_predictions(model, run, photos(size, count, padded=False))


def test_the_command_writes_a_file_and_tells_the_differences(tmp_path, capsys):
    torch.manual_seed(0)
    config, weights, out = tmp_path / "config.py", tmp_path / "model.pt", tmp_path / "out/model.pt2"
    config.write_text(f"model = {TOYS['classifier']!r}\nval_data = dict(pipeline=[dict(type='Resize', size=[64, 96])])")
    model = build("classifier")
    torch.save(checkpoint_of(model), weights)
    assert main(["export", str(config), str(weights), "--format", "torch-export", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: torch-export, 1 × 3 × 64 × 96" in printed and "on 1 image: scores" in printed
    files = {"classes": ""}
    program = torch.export.load(out, extra_files=files).module()
    assert json.loads(files["classes"]) == list(META.classes)
    image = photos(count=1).images
    model.pipeline = []
    (expected,) = chordate.predict(model, image)
    torch.testing.assert_close(program(image)["scores"][0], expected.scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "torchscript", "--dynamic"], "TorchScript has fixed sizes; leave out --dynamic"),
        (["--size", "0", "96"], "--size must be"),
        (["--cfg-options", "model.tta=dict(type='ten_crop', size=32)"], "cannot be exported with tta"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(arguments, message, tmp_path, capsys):
    config, weights = tmp_path / "config.py", tmp_path / "model.pt"
    config.write_text(f"model = {TOYS['classifier']!r}\nval_data = dict(pipeline=[dict(type='Resize', size=[64, 96])])")
    torch.save(checkpoint_of(build("classifier")), weights)
    out = ["--out", str(tmp_path / "model")]
    assert main(["export", str(config), str(weights), "--format", "torch-export", *out, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_task_from_outside_the_package_exports_its_own_outputs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "outside")
    importlib.import_module("depth_task")
    torch.manual_seed(0)
    backbone = {**BACKBONE, "out": ["c2"]}
    model = Exportable(MODELS.build({"type": "DepthEstimator", "backbone": backbone}, meta=DatasetMeta()).eval(), SIZE)
    FORMATS["torch-export"].save(model, tmp_path / "depth.pt2")
    assert model.outputs == ["depth"] and model.inputs == ["images"]
    run = FORMATS["torch-export"].open(tmp_path / "depth.pt2", model)
    parity = compare(model.model, run, [photos(count=1)])
    assert parity.differences["depth"] < 1e-5 and not parity.counts


def test_the_size_must_suit_the_strides():
    with pytest.raises(ConfigError, match="takes multiples of 32 pixels, for example 64 128"):
        Exportable(build("faster"), (60, 100))


def test_a_head_without_padded_predictions_is_named():
    model = build("faster")
    model.box = nn.Linear(1, 1)
    batch = photos()
    with pytest.raises(ConfigError, match="Linear cannot be exported: it has no method predict_padded"):
        model.predict_tensors(batch.images, batch.sizes)


def test_the_example_of_onnxruntime_on_the_page_runs(tmp_path, monkeypatch, capsys):
    model, _ = exported("faster", "onnx", tmp_path, batch=1)
    photo = photos(count=1)
    cv2.imwrite(str(tmp_path / "street.png"), photo.images[0].flip(0).permute(1, 2, 0).numpy())
    (example,) = [text for text in blocks(page("docs/deployment.md"), "python") if "onnxruntime" in text]
    monkeypatch.chdir(tmp_path)
    exec(example.replace("street.jpg", "street.png").replace("scores >= 0.5", "scores >= 0.05"), {})
    (expected,) = model.model.predict(photo)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected) > 0
    assert printed[0].startswith(f"{META.classes[expected.labels[0]]} {expected.scores[0]:.2f}")


def test_the_example_of_optimize_on_the_page_runs(tmp_path, monkeypatch):
    (example,) = [text for text in blocks(page("docs/deployment.md"), "python") if "optimize" in text]
    model = build("classifier")
    model.pipeline = [{"type": "Resize", "size": SIZE}]
    cv2.imwrite(str(tmp_path / "street.jpg"), photos().images[0].permute(1, 2, 0).numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("chordate.deployment.optimize.has_compiler", lambda: False)
    scope = {"model": model}
    exec(example, scope)
    (expected,) = chordate.predict(model, "street.jpg")
    torch.testing.assert_close(scope["predictions"][0].scores, expected.scores)
