"""The training step of each detector is one graph for any number of objects, with the losses of eager mode."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from backbone_referee import slow
from detection_toys import assert_never_waits, train_on_fake_tensors
from test_two_stage import META, Tiny, batch_of

from chordate.registry import MODELS


class Last(Tiny):
    """A backbone with a single feature map, of stride 16."""

    def __init__(self):
        super().__init__()
        self.stages = self.stages[:3]
        self.out_features = {"c5": self.out_features["c4"]}

    def forward(self, images):
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return {"c5": x}


KEYPOINTS = 4
EVERYTHING = {"batch_size_per_image": 10_000, "positive_fraction": 0.5}  # samples all, so losses are deterministic
RPN = {"type": "RPNHead", "pre_nms_topk": (30, 30), "post_nms_topk": (30, 20), **EVERYTHING}
ONE_LEVEL = {**RPN, "anchors": {"sizes": [[16, 32, 64]]}}
BOX = {"type": "BoxHead", "trunk": {"type": "ConvFC", "fc_channels": 16, "fcs": 1}, **EVERYTHING}
MASK = {"type": "MaskHead", "convs": 1, "channels": 8}
KEYPOINT = {"type": "KeypointHead", "convs": 1, "channels": 8}
NECK = {"type": "FPN", "channels": 16, "inputs": ["c3", "c4"], "extra": None}
TWO_STAGE = {"type": "TwoStageDetector", "neck": NECK, "rpn": RPN, "box": BOX}
SMALL = {"type": "CifarResNet", "depth": 8, "norm": "FrozenBN"}

MODELS_OF = {
    "two-stage": TWO_STAGE,
    "mask and keypoint": {**TWO_STAGE, "mask": MASK, "keypoint": KEYPOINT},
    "cascade mask": {
        **TWO_STAGE,
        "box": {"type": "CascadeHead", "stage": {k: v for k, v in BOX.items() if k != "type"}},
        "mask": MASK,
    },
    "C4": {
        **TWO_STAGE,
        "neck": None,
        "backbone": {**SMALL, "out": ["c3", "c4"]},
        "trunk": "c4",
        "rpn": ONE_LEVEL,
        "box": {"type": "BoxHead", "resolution": 8, **EVERYTHING},
        "mask": {**MASK, "convs": 0},
    },
    "DC5": {**TWO_STAGE, "neck": None, "backbone": Last, "rpn": ONE_LEVEL, "mask": MASK},
    "RetinaNet": {
        "type": "OneStageDetector",
        "neck": NECK,
        "head": {"type": "RetinaHead", "convs": 1},
    },
}


def detector(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    parts = {"backbone": Tiny, **MODELS_OF[kind]}
    if isinstance(parts["backbone"], type):
        parts["backbone"] = parts["backbone"]()
    return MODELS.build(parts, meta=replace(META, extra={"num_keypoints": KEYPOINTS}))


def batch(*counts: int, seed: int):
    made = batch_of(*counts, side=64, seed=seed)
    shape = made.targets.boxes.shape[:2]
    generator = torch.Generator().manual_seed(seed)
    made.targets.masks = torch.randint(0, 2, (*shape, 112, 112), generator=generator, dtype=torch.uint8)
    made.targets.keypoints = torch.rand(*shape, KEYPOINTS, 3, generator=generator) * 64
    return made


@pytest.mark.parametrize("kind", MODELS_OF)
def test_no_shape_in_a_training_step_depends_on_the_data(kind):
    losses = train_on_fake_tensors(partial(detector, kind), batch(3, 1, seed=0))
    assert losses and all(loss.shape == () for loss in losses.values())


# Most kinds are slow tests: the test above checks all for data-dependent shapes, the usual cause of several graphs.
@pytest.mark.parametrize("kind", ["two-stage", *slow(*(kind for kind in MODELS_OF if kind != "two-stage"))])
def test_the_training_step_is_one_graph_for_any_number_of_objects(kind):
    """The graph goes from uint8 images to the losses, forward and backward; NMS is one opaque operator."""
    model = detector(kind)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for seed, counts in enumerate([(3, 1), (0, 0), (8, 2)]):
        made = batch(*counts, seed=seed)
        losses, wanted = compiled(made), model(made)
        assert losses.keys() == wanted.keys()
        for name, loss in wanted.items():
            torch.testing.assert_close(losses[name], loss, msg=lambda message, name=name: f"{name}: {message}")
        sum(losses.values()).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", MODELS_OF)
def test_bfloat16_autocast_keeps_losses_and_detections_in_float32(kind):
    model = detector(kind)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch(3, 1, seed=0))
        sum(losses.values()).backward()
        predictions = model.eval()(batch(3, 1, seed=0))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(d.boxes.dtype == torch.float32 for d in predictions)
    assert all(d.keypoints is None or d.keypoints.dtype == torch.float32 for d in predictions)


@pytest.mark.parametrize("kind", MODELS_OF)
def test_without_detections_there_are_no_masks_and_no_keypoints(kind):
    model = detector(kind).eval()
    last_head = getattr(model, "head", None) or getattr(model.box, "stages", [model.box])[-1]
    last_head.score_threshold = 1.0
    for detections in model(batch(0, 0, seed=0)):
        assert len(detections) == 0
        assert detections.masks is None or detections.masks.shape == (0, 64, 64)
        assert detections.keypoints is None or detections.keypoints.shape == (0, KEYPOINTS, 3)
    parts = MODELS_OF[kind]
    assert (detections.masks is not None) == ("mask" in parts) and (detections.keypoints is not None) == (
        "keypoint" in parts
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", MODELS_OF)
def test_a_training_step_of_any_detector_has_no_host_sync(monkeypatch, kind):
    assert_never_waits(monkeypatch, detector(kind), batch(3, 1, seed=0), batch(8, 0, seed=1))
