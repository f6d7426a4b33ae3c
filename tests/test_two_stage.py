"""The two-stage detector as a whole: how it is built, trained and compiled, what it detects, and its errors."""

import re

import pytest
import torch
from detection_toys import assert_never_waits, instances
from torch import nn
from torchvision.ops import box_iou

from chordate.contracts import Backbone, FeatureSpec
from chordate.errors import ConfigError, DataError
from chordate.registry import MODELS
from chordate.structures import Batch, DatasetMeta, ImageInfo

CLASSES = 3
META = DatasetMeta(classes=("a", "b", "c"))


class Tiny(Backbone):
    """A backbone with a stem and one convolution for each of c2 … c5."""

    name = "Tiny"

    def __init__(self, channels: int = 16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU())
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, channels, 3, 2, 1), nn.ReLU()) for _ in range(4))
        self.out_features = {f"c{i + 2}": FeatureSpec(channels, 4 << i) for i in range(4)}

    def forward(self, images):
        x, maps = self.stem(images), {}
        for name, stage in zip(self.out_features, self.stages):
            x = maps[name] = stage(x)
        return maps


def config(**changes) -> dict:
    return {
        "type": "TwoStageDetector",
        "backbone": Tiny(),
        "neck": {"type": "FPN", "channels": 16},
        "rpn": {"type": "RPNHead", "post_nms_topk": (200, 100)},
        "box": {"type": "BoxHead", "trunk": {"type": "ConvFC", "fc_channels": 32}, "batch_size_per_image": 64},
        **changes,
    }


def detector(**changes) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(config(**changes), meta=META)


def batch_of(*counts: int, side: int = 96, slots: int = 8, seed: int = 0) -> Batch:
    """A batch of noise images; `counts` are the numbers of random boxes per image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(counts), 3, side, side), dtype=torch.uint8, generator=generator)
    boxes = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * side / 2
        size = 8 + torch.rand(count, 2, generator=generator) * (side / 2 - 8)
        boxes.append(torch.cat((corner, corner + size), dim=1).tolist())
    targets = instances(boxes, labels=[[i % CLASSES for i in range(count)] for count in counts], slots=slots)
    sizes = torch.full((len(counts), 2), side)
    return Batch(images, sizes, [ImageInfo(i, f"{i}.jpg", side, side) for i in range(len(counts))], targets)


def test_every_parameter_gets_a_gradient_from_the_sum_of_the_losses():
    model = detector()
    losses = model(batch_of(3, 1))
    assert set(losses) == {"rpn_cls", "rpn_box", "box_cls", "box_reg"}
    assert all(loss.ndim == 0 and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_a_two_stage_detector_trains_on_images_without_objects():
    model = detector()
    losses = model(batch_of(0, 0))
    assert losses["rpn_box"] == 0 and losses["box_reg"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_training_batch_without_targets_is_an_error():
    batch = batch_of(1)
    batch.targets = None
    with pytest.raises(DataError, match="without targets"):
        detector()(batch)


def test_detections_are_in_pixels_of_the_original_image():
    model = detector().eval()
    batch = batch_of(0, 0)
    plain = model(batch)
    batch.infos = [ImageInfo(0, "", 2 * 96, 96), ImageInfo(1, "", 96, 3 * 96)]
    scaled = model(batch)
    assert all(len(detections) for detections in plain)
    torch.testing.assert_close(scaled[0].boxes, plain[0].boxes * torch.tensor([1.0, 2, 1, 2]))
    torch.testing.assert_close(scaled[1].boxes, plain[1].boxes * torch.tensor([3.0, 1, 3, 1]))
    assert scaled[0].boxes.dtype == torch.float32


def test_a_two_stage_detector_takes_images_of_any_size():
    model = detector().eval()
    batch = Batch(torch.zeros(1, 3, 45, 77), torch.tensor([[45, 77]]), [ImageInfo(0, "", 45, 77)])
    (detections,) = model(batch)
    assert (detections.boxes >= 0).all() and (detections.boxes <= torch.tensor([77.0, 45, 77, 45])).all()


def test_a_neck_is_optional_when_one_feature_map_is_used():
    model = detector(
        neck=None,
        rpn={"type": "RPNHead", "levels": ["c4"], "anchors": {"sizes": [[32, 64, 128]]}},
        box={"type": "BoxHead", "levels": ["c4"], "trunk": {"type": "ConvFC", "fc_channels": 32}},
    )
    assert sum(model(batch_of(2)).values()) > 0


def test_the_error_for_a_neck_that_does_not_fit_the_backbone_names_both():
    with pytest.raises(ConfigError, match=r'FPN needs .*"c2", "c6", but Tiny offers c2 \(16 ch, stride 4\).*no "c6"'):
        detector(neck={"type": "FPN", "inputs": ["c2", "c6"]})


def test_building_a_detector_checks_the_feature_maps_of_its_backbone():
    backbone = Tiny()
    backbone.out_features["c5"] = FeatureSpec(99, 32)
    with pytest.raises(ConfigError, match=r"Tiny declares c5 \(99 ch, stride 32\)"):
        detector(backbone=backbone)


def test_a_two_stage_detector_in_channels_last_gives_the_same_scores():
    plain, last = detector().eval(), detector().eval().to(memory_format=torch.channels_last)
    for ours, theirs in zip(plain(batch_of(0)), last(batch_of(0))):
        torch.testing.assert_close(ours.scores, theirs.scores)


def test_bfloat16_autocast_keeps_boxes_and_losses_in_float32():
    model = detector()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch_of(3, 1))
        sum(losses.values()).backward()
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        (detections,) = model.eval()(batch_of(0))
    assert detections.boxes.dtype == torch.float32


@pytest.mark.slow  # test_training_steps checks this for detectors with these and more parts
def test_the_training_step_compiles_once_for_any_number_of_objects():
    """Everything from uint8 images to the summed loss is one graph; NMS is one opaque operator."""
    model = detector()

    def step(batch: Batch) -> torch.Tensor:
        return sum(model(batch).values())

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for number, counts in enumerate([(3, 1), (8, 0), (0, 0), (1, 7)]):
        compiled(batch_of(*counts, seed=number)).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    compiled(batch_of(9, 1, slots=16)).backward()
    torch._dynamo.reset()


@pytest.mark.slow  # test_training_steps checks this for detectors with these and more parts
def test_compiled_losses_equal_the_eager_losses():
    """With all anchors and RoIs sampled, the losses are deterministic."""
    everything = {"batch_size_per_image": 10_000, "positive_fraction": 0.5}
    parts = config()
    model = detector(rpn={**parts["rpn"], **everything}, box={**parts["box"], **everything})
    eager = model(batch_of(3, 1))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(batch_of(3, 1))
    torch._dynamo.reset()
    for name, loss in eager.items():
        torch.testing.assert_close(compiled[name], loss)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_two_stage_training_step_has_no_host_sync(monkeypatch):
    assert_never_waits(monkeypatch, detector(), batch_of(3, 1), batch_of(8, 0, seed=1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_detections_on_the_gpu_are_those_on_the_cpu():
    model = detector().eval().double()
    on_cpu = model(batch_of(0, 0))
    on_gpu = model.cuda()(batch_of(0, 0).to("cuda"))
    for ours, theirs in zip(on_cpu, on_gpu):
        torch.testing.assert_close(theirs.boxes.cpu(), ours.boxes)
        assert torch.equal(theirs.labels.cpu(), ours.labels)


def test_a_two_stage_detector_learns_to_detect_squares():
    torch.manual_seed(0)
    model = detector(backbone=Tiny(64))
    images = torch.full((2, 3, 96, 96), 60, dtype=torch.uint8)
    boxes = [[[8.0, 8, 40, 40], [50, 30, 90, 80]], [[30.0, 40, 70, 90]]]
    labels = [[0, 1], [2]]
    for image, image_boxes in enumerate(boxes):
        for (x1, y1, x2, y2), label in zip(image_boxes, labels[image]):
            images[image, label, int(y1) : int(y2), int(x1) : int(x2)] = 250
    infos = [ImageInfo(i, "", 96, 96) for i in range(2)]
    batch = Batch(images, torch.full((2, 2), 96), infos, instances(boxes, labels))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(75):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    for detections, image_boxes, classes in zip(model.eval()(batch), boxes, labels):
        overlap, match = box_iou(torch.tensor(image_boxes), detections.boxes[: len(image_boxes)]).max(dim=1)
        assert (overlap > 0.7).all()
        assert detections.labels[match].tolist() == classes and (detections.scores[match] > 0.7).all()


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        ("rpn", "pre_nms_topk", 100),
        ("rpn", "post_nms_topk", (100, 0)),
        ("rpn", "iou_thresholds", [0.7, 0.3]),
        ("rpn", "iou_thresholds", 0.5),
        ("rpn", "positive_fraction", 5),
        ("rpn", "convs", -1),
        ("neck", "channels", 0),
        ("box", "resolution", 0),
        ("box", "score_threshold", "x"),
        ("box", "detections_per_image", 1.5),
        (None, "size_divisor", 0),
    ],
)
def test_the_error_for_an_invalid_number_names_the_class_and_the_setting(part, setting, value):
    settings = config()
    if part is None:
        settings[setting] = value
    else:
        settings[part] = {**settings[part], setting: value}
    with pytest.raises(ConfigError) as error:
        MODELS.build(settings, meta=META)
    owner = settings[part]["type"] if part else "TwoStageDetector"
    text = {"(100, 0)": "0", "'x'": '"x"'}.get(repr(value), repr(value))
    assert re.fullmatch(rf"(.* )?{owner}: {setting}(\.1)? must be .*, got {re.escape(text)}", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rpn": nn.Linear(1, 1)}, r'"Linear" does not implement ProposalHead: it has no loss\(outputs'),
        ({"box": nn.Linear(1, 1)}, '"Linear" does not implement RoIHead: it has no nms_threshold'),
        ({"mask": nn.Linear(1, 1)}, '"Linear" does not implement InstanceHead'),
        ({"box": {"type": "BoxHead", "trunk": nn.Flatten()}}, '"Flatten" does not implement RoITrunk: .*out_channels'),
    ],
    ids=str,
)
def test_a_built_module_without_the_contracts_members_is_a_one_line_error(parts, message):
    with pytest.raises(ConfigError, match=message) as error:
        detector(**parts)
    assert "\n" not in str(error.value)
