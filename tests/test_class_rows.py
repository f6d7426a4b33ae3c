"""Fine-tuning with other classes: weights of classes with the same name are loaded, others stay as initialized."""

import pytest
import torch
import torchvision
from checkpoint_toys import own
from rich.console import Console
from torch import Tensor, nn

from chordate.config import load_config
from chordate.contracts import FeatureSpec
from chordate.data.coco_classes import COCO_CLASSES, COCO_SKELETON
from chordate.head_contracts import ClassRows
from chordate.model_contracts import Model
from chordate.registry import BACKBONES, HEADS, MODELS
from chordate.structures import DatasetMeta, Skeleton
from chordate.weights.loading import load_checkpoint

FEATURES = {"p2": FeatureSpec(8, 4), "p3": FeatureSpec(8, 8)}
OLD = DatasetMeta(("cat", "person", "dog", "zebra"), Skeleton(("nose", "tail", "left_ear")))
NEW = DatasetMeta(("zebra", "widget", "person"), Skeleton(("tail", "hoof", "nose", "left_ear")))


class OneHead(Model):
    """A model that consists of one head."""

    def __init__(self, meta: DatasetMeta, head):
        super().__init__()
        self.meta = meta
        self.head = HEADS.build(head, facts=meta.facts(), in_features=FEATURES)
        for parameter in self.parameters():
            nn.init.normal_(parameter)  # initial zeros would hide exchanged rows
        self.double()


def pyramid() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sides = {name: 64 // spec.stride for name, spec in FEATURES.items()}
    return {name: torch.randn(1, 8, side, side, generator=generator).double() for name, side in sides.items()}


BOXES = torch.tensor([[0.0, 0.0, 40.0, 40.0], [10.0, 20.0, 60.0, 50.0]]).double()
IMAGE = torch.zeros(2, dtype=torch.int64)


def box_outputs(head) -> dict[str, Tensor]:
    logits, deltas = head(pyramid(), BOXES, IMAGE)
    return {"scores": logits.T, "boxes": deltas.transpose(0, 1)}


def cascade_outputs(head) -> dict[str, Tensor]:
    stages = enumerate(map(box_outputs, head.stages))
    return {f"{key}_{number}": value for number, stage in stages for key, value in stage.items()}


def mask_outputs(head) -> dict[str, Tensor]:
    classes = len(head.masks.bias)
    return {"masks": torch.stack([head(pyramid(), BOXES, IMAGE, torch.full((2,), label)) for label in range(classes)])}


def dense_outputs(head) -> dict[str, Tensor]:
    outputs = head(pyramid())
    return {"scores": outputs.logits[0].T, "boxes": outputs.deltas[None]}


HEADS_AND_OUTPUTS = {
    "box": ({"type": "BoxHead"}, box_outputs),
    "class-agnostic box": ({"type": "BoxHead", "class_agnostic": True}, box_outputs),
    "cascade": ({"type": "CascadeHead"}, cascade_outputs),
    "mask": ({"type": "MaskHead", "channels": 8}, mask_outputs),
    "class-agnostic mask": ({"type": "MaskHead", "channels": 8, "class_agnostic": True}, mask_outputs),
    "retina": ({"type": "RetinaHead", "convs": 1}, dense_outputs),
    "classification": ({"type": "ClassificationHead"}, lambda head: {"scores": head(pyramid()).T}),
    "keypoint": (
        {"type": "KeypointHead", "channels": 8, "convs": 1},
        lambda head: {"keypoints": head(pyramid(), BOXES, IMAGE).transpose(0, 1)},
    ),
}


@pytest.mark.parametrize("name", HEADS_AND_OUTPUTS)
@torch.no_grad()
def test_outputs_of_classes_with_equal_names_are_kept(name):
    """Outputs of the heads are compared, since they do not depend on the layout of the weights."""
    config, outputs = HEADS_AND_OUTPUTS[name]
    trained, model, fresh = OneHead(OLD, config), OneHead(NEW, config), OneHead(NEW, config)
    fresh.load_state_dict(model.state_dict())
    report = load_checkpoint(model, own(trained, OLD), strict=False)
    assert not report.missing and not report.skipped and model.meta == NEW
    adapted = {tensor: value for tensor, value in model.state_dict().items() if tensor in report.adapted}
    shared_trunk = {k: v for k, v in trained.state_dict().items() if k not in report.adapted}
    fresh.load_state_dict(shared_trunk, strict=False)
    old, new, initial = outputs(trained.head), outputs(model.head), outputs(fresh.head)
    for key in new:
        before, after = (meta.skeleton.names if key == "keypoints" else meta.classes for meta in (OLD, NEW))
        if len(new[key]) == 1:  # class-agnostic outputs are kept
            torch.testing.assert_close(new[key], old[key])
            continue
        for row, class_name in enumerate(after):
            kept = class_name in before
            torch.testing.assert_close(new[key][row], old[key][before.index(class_name)] if kept else initial[key][row])
        if len(new[key]) > len(after):  # the last output is the background's
            torch.testing.assert_close(new[key][-1], old[key][-1])
    assert bool(adapted) == ("agnostic mask" not in name)


def test_reordered_class_names_reorder_the_outputs():
    head = {"type": "ClassificationHead"}
    trained, model = OneHead(DatasetMeta(("a", "b", "c")), head), OneHead(DatasetMeta(("c", "a", "b")), head)
    report = load_checkpoint(model, own(trained, trained.meta), strict=False)
    assert report.adapted == ["head.fc.weight", "head.fc.bias"]
    assert torch.equal(model.head.fc.bias, trained.head.fc.bias[[2, 0, 1]])
    assert model.classes == ("c", "a", "b")


def test_no_name_in_common_leaves_the_head_as_initialized():
    head = {"type": "ClassificationHead"}
    trained, model = OneHead(DatasetMeta(("a", "b")), head), OneHead(DatasetMeta(("c", "d")), head)
    model.neck, trained.neck = nn.Linear(2, 2), nn.Linear(2, 2)
    before = model.head.fc.bias.clone()
    report = load_checkpoint(model, own(trained, trained.meta), strict=False)
    assert report.missing == report.skipped == ["head.fc.weight", "head.fc.bias"]
    assert torch.equal(model.head.fc.bias, before) and torch.equal(model.neck.bias, trained.neck.bias)


def test_a_class_name_that_occurs_twice_is_not_matched():
    head = {"type": "ClassificationHead"}
    trained = OneHead(DatasetMeta(("crane", "dog", "crane")), head)
    model = OneHead(DatasetMeta(("crane", "dog")), head)
    before = model.head.fc.bias[0].item()
    load_checkpoint(model, own(trained, trained.meta), strict=False)
    assert model.head.fc.bias.tolist() == [before, trained.head.fc.bias[1].item()]


@pytest.mark.parametrize("names", [("class 0", "class 1", "class 2"), ()])
def test_without_class_names_only_the_background_is_kept(names):
    trained, model = OneHead(OLD, "BoxHead"), OneHead(NEW, "BoxHead")
    source = own(trained, DatasetMeta(names)) if names else trained.state_dict()
    report = load_checkpoint(model, source, strict=False)
    assert report.adapted == ["head.cls_score.weight", "head.cls_score.bias"]
    assert report.missing == ["head.bbox_pred.weight", "head.bbox_pred.bias"]
    assert torch.equal(model.head.cls_score.weight[-1], trained.head.cls_score.weight[-1])
    assert report.notes["head.cls_score.bias"] == "0 of 3 classes by name: only the background"


def test_a_model_without_class_names_takes_those_of_a_checkpoint_with_equally_many():
    trained, model = OneHead(OLD, "BoxHead"), OneHead(DatasetMeta(tuple(f"class {i}" for i in range(4))), "BoxHead")
    model.meta = DatasetMeta(model.classes, Skeleton(("a", "b", "c")))
    report = load_checkpoint(model, own(trained, OLD), strict=False)
    assert not report.adapted and not report.missing
    assert model.meta == OLD


def test_a_head_from_outside_declares_which_output_belongs_to_which_class():
    class Prototypes(nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.centers = nn.Parameter(torch.rand(6, 3))  # two rows for each of 3 attributes
            self.class_rows = {"centers": ClassRows(values=2, names="attributes")}

    metas = [DatasetMeta(extra={"attributes": names}) for names in (["red", "big", "old"], ["old", "new", "red"])]
    trained, model = (OneHead(meta, Prototypes()) for meta in metas)
    fresh = model.head.centers.clone()
    report = load_checkpoint(model, own(trained, trained.meta), strict=False)
    assert torch.equal(model.head.centers[[4, 5, 0, 1]], trained.head.centers[[0, 1, 4, 5]])
    assert torch.equal(model.head.centers[2:4], fresh[2:4])
    assert str(report) == (
        "the state dict (chordate): 0 tensors loaded, 1 adapted (head.centers; 2 of 3 attributes by name: red, old)"
    )


# --- torchvision's networks -------------------------------------------------------------------------------------


def test_torchvisions_categories_are_cocos():
    categories = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert tuple(name for name in categories if name not in ("N/A", "__background__")) == COCO_CLASSES
    points = torchvision.models.detection.KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"]
    assert tuple(points) == COCO_SKELETON.names


def detector(config: str, meta: DatasetMeta) -> Model:
    parts = load_config(config).model.to_dict()
    parts["backbone"].update(pretrained=None)
    return MODELS.build(parts, meta=meta)


@pytest.mark.parametrize(
    ("name", "config", "total"),
    [
        ("fasterrcnn_resnet50_fpn", "faster-rcnn_r50_fpn_torchvision", 295),
        ("maskrcnn_resnet50_fpn", "mask-rcnn_r50_fpn_torchvision", 307),
        ("retinanet_resnet50_fpn", "retinanet_r50_fpn_torchvision", 301),
    ],
)
def test_torchvisions_coco_detectors_keep_classes_with_equal_names(name, config, total):
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None).state_dict()
    model = detector(config, DatasetMeta(("person", "zebra", "widget")))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_checkpoint(model, theirs, strict=False)
    after = model.state_dict()
    assert report.format == "torchvision" and not report.missing and not report.skipped
    assert len(report.loaded) + len(report.adapted) == total and len(report.loaded) / total > 0.9
    person, zebra = 1, 24  # category ids in COCO

    if name.startswith("retinanet"):  # torchvision orders the 9 anchors by ratio, then size; we by size, then ratio
        old = (
            theirs["head.classification_head.cls_logits.weight"].view(3, 3, 91, 256, 3, 3).transpose(0, 1).flatten(0, 1)
        )
        new, fresh = (state["head.cls_score.weight"].view(9, 3, 256, 3, 3) for state in (after, before))
        assert torch.equal(new[:, :2], old[:, [person, zebra]]) and torch.equal(new[:, 2], fresh[:, 2])
        return
    parts = {
        "box.cls_score": ("roi_heads.box_predictor.cls_score", 1),
        "box.bbox_pred": ("roi_heads.box_predictor.bbox_pred", 4),
        "mask.masks": ("roi_heads.mask_predictor.mask_fcn_logits", 1),
    }
    for ours, (their_name, values) in parts.items():
        for suffix in ("weight", "bias"):
            if f"{ours}.{suffix}" not in after:
                continue
            old, new, fresh = (
                state[f"{layer}.{suffix}"].unflatten(0, (-1, values))
                for layer, state in ((their_name, theirs), (ours, after), (ours, before))
            )
            assert torch.equal(new[:2], old[[person, zebra]]) and torch.equal(new[2], fresh[2])
            if ours == "box.cls_score":
                assert torch.equal(new[3], old[0])


def test_torchvisions_keypoint_detector_keeps_keypoints_with_equal_names():
    theirs = torchvision.models.get_model("keypointrcnn_resnet50_fpn", weights=None, weights_backbone=None).state_dict()
    meta = DatasetMeta(("rider", "person"), Skeleton(("tail", "right_ear", "nose")))
    model = detector("keypoint-rcnn_r50_fpn_torchvision", meta)
    fresh = model.state_dict()["keypoint.heatmaps.weight"][:, 0].clone()
    report = load_checkpoint(model, theirs, strict=False)
    assert not report.missing and not report.skipped
    layer = "roi_heads.keypoint_predictor.kps_score_lowres"
    assert torch.equal(model.state_dict()["keypoint.heatmaps.weight"][:, 1:], theirs[f"{layer}.weight"][:, [4, 0]])
    assert torch.equal(model.state_dict()["keypoint.heatmaps.weight"][:, 0], fresh)
    assert torch.equal(model.state_dict()["keypoint.heatmaps.bias"][1:], theirs[f"{layer}.bias"][[4, 0]])
    scores = theirs["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(model.state_dict()["box.cls_score.weight"][1:], scores[[1, 0]])


class Classifier(Model):
    def __init__(self, meta: DatasetMeta):
        super().__init__()
        self.meta = meta
        self.backbone = BACKBONES.build("resnet18")
        self.head = HEADS.build("ClassificationHead", facts=meta.facts(), in_features=self.backbone.out_features)


def test_an_imagenet_classifier_keeps_classes_with_equal_names():
    theirs = torchvision.models.resnet18(weights=None)
    model = Classifier(DatasetMeta(("widget", "goldfish", "zebra")))
    fresh = model.head.fc.weight.clone()
    report = load_checkpoint(model, theirs.state_dict(), strict=False)
    assert report.format == "torchvision" and not report.missing and len(report.loaded) == 120
    assert torch.equal(model.head.fc.weight[1:], theirs.fc.weight[[1, 340]])  # ImageNet's goldfish and zebra
    assert torch.equal(model.head.fc.weight[0], fresh[0])


# --- the report -------------------------------------------------------------------------------------------------


def printed(report) -> list[list[str]]:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(report.table())
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in capture.get().splitlines() if "│" in line]


def test_the_table_has_a_row_per_part_and_per_layer_that_differs():
    model, trained = OneHead(NEW, "BoxHead"), OneHead(OLD, "BoxHead")
    model.mask, trained.neck = nn.Linear(2, 2), nn.Linear(2, 2)
    report = load_checkpoint(model, own(trained, OLD), strict=False)
    assert printed(report) == [
        ["head", "4", "", "", "", ""],
        ["head.cls_score", "", "2", "", "", "2 of 3 classes by name: person, zebra"],
        ["head.bbox_pred", "", "2", "", "", "2 of 3 classes by name: person, zebra"],
        ["mask", "", "", "2", "", ""],
        ["neck", "", "", "", "2", ""],
    ]


def test_class_names_of_an_untrusted_checkpoint_are_printed_literally_on_one_line():
    name = "[red]a\nb\x1b[0m"
    trained, model = (OneHead(DatasetMeta((name, other)), "ClassificationHead") for other in ("x", "y"))
    report = load_checkpoint(model, own(trained, trained.meta), strict=False)
    assert "\n" not in str(report) and "\x1b" not in str(report)
    assert printed(report)[-1][-1] == "1 of 2 classes by name: [red]a�b�[0m"
