"""Torchvision's Faster R-CNNs, loaded and compared in float64 on real images: detections and losses."""

import json
import re
from pathlib import Path

import cv2
import pytest
import torch
import torchvision
from torch import nn

from chordate.checkpoints.load import load_checkpoint
from chordate.checkpoints.torchvision import convert
from chordate.config import load_config
from chordate.registry import MODELS
from chordate.structures import Batch, ImageInfo, InstanceTargets

SIDE = 192  # the shorter side; small, since float64 is slow
PROPOSALS = 100


def pictures(folder: Path) -> tuple[list[torch.Tensor], list[list[dict]]]:
    """Two landscape photos and a portrait one, `[3, H, W]` uint8, and their annotations scaled along."""
    data = json.loads((folder / "coco-mini/annotations/instances_val2017.json").read_text())
    anns = {image["id"]: [] for image in data["images"]}
    for ann in data["annotations"]:
        if not ann["iscrowd"] and min(ann["bbox"][2:]) > 8:
            anns[ann["image_id"]].append(ann)
    rich = [image for image in data["images"] if len(anns[image["id"]]) >= 5]
    wide = [image for image in rich if image["width"] > image["height"]][:2]
    tall = [image for image in rich if image["width"] < image["height"]][:1]
    images, boxes = [], []
    for image in wide + tall:
        pixels = cv2.imread(str(folder / "coco-mini/val2017" / image["file_name"]))[:, :, ::-1]
        scale = SIDE / min(pixels.shape[:2])
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        ratio = torch.tensor([size[0] / image["width"], size[1] / image["height"]]).repeat(2)
        xywh = torch.tensor([ann["bbox"] for ann in anns[image["id"]]])
        xyxy = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1) * ratio
        labels = torch.tensor([ann["category_id"] for ann in anns[image["id"]]])
        boxes.append({"boxes": xyxy.double(), "labels": labels})
    return images, boxes


def standardise(layer: nn.Module, samples: torch.Tensor, std: float) -> None:
    """Shift and scale a predictor so that each of its outputs has mean 0 and this deviation on `samples` `[M, O]`."""
    scale = std / samples.std(dim=0)
    layer.bias.data = (layer.bias - samples.mean(dim=0)) * scale
    layer.weight.data *= scale.reshape(-1, *[1] * (layer.weight.dim() - 1))


@torch.no_grad()
def scattered(name: str, images: list[torch.Tensor], shifts: float = 0.3, boxes: float = 1.0) -> nn.Module:
    """A torchvision detector with random weights and statistics that sees many objects of many classes.

    A fresh one has equal scores everywhere, and BatchNorms that do nothing. Here the norms' affine parts are
    random, their statistics those of the images, and the predictors are scaled until their outputs differ
    from place to place: `shifts` and `boxes` are the deviations of the RPN's and the box head's deltas.
    """
    torch.manual_seed(5)
    model = torchvision.models.detection.__dict__[name](
        weights=None,
        weights_backbone=None,
        min_size=SIDE,  # of the pictures too, so that nothing is resized
        max_size=10_000,
        box_detections_per_img=10_000,  # so that the counts say something
        rpn_post_nms_top_n_test=PROPOSALS,
        rpn_post_nms_top_n_train=PROPOSALS,
        rpn_batch_size_per_image=10**6,  # all, so that chance has no say in the losses
        box_batch_size_per_image=10**6,
        rpn_positive_fraction=0.5,
        box_positive_fraction=0.5,
    ).double()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(std=0.2)
        norm.momentum = 1.0  # statistics of the latest pass alone
    seen: dict[str, list[torch.Tensor]] = {}
    predictors = {
        "objectness": (model.rpn.head.cls_logits, 2.0),
        "shifts": (model.rpn.head.bbox_pred, shifts),
        "classes": (model.roi_heads.box_predictor.cls_score, 3.0),
        "boxes": (model.roi_heads.box_predictor.bbox_pred, boxes),
    }

    def note(key):
        return lambda layer, args, out: seen.setdefault(key, []).append(
            out.permute(0, 2, 3, 1).flatten(0, 2) if out.dim() == 4 else out
        )

    hooks = [layer.register_forward_hook(note(key)) for key, (layer, _) in predictors.items()]
    model.eval()
    for stage in (("objectness", "shifts"), ("classes", "boxes")):  # the second depends on the first
        for norm in norms:
            norm.train()
        seen.clear()
        model([image.double() / 255 for image in images])
        for key in stage:
            layer, std = predictors[key]
            standardise(layer, torch.cat(seen[key]), std)
    for hook in hooks:
        hook.remove()
    return model.eval()


def ours(config: str, **box) -> nn.Module:
    """Our counterpart, with its settings where the referee's constructor was told so too."""
    model = load_config(config).model.to_dict()
    model["backbone"].update(pretrained=None)
    if isinstance(model["backbone"]["norm"], dict):
        model["backbone"]["norm"]["eps"] = 1e-5  # 0 is for the published weights only
    model["rpn"].update(post_nms_topk=(PROPOSALS, PROPOSALS), batch_size_per_image=10**6)
    model["box"].update(detections_per_image=10_000, batch_size_per_image=10**6, positive_fraction=0.5)
    return MODELS.build(model, num_classes=90)


def as_batch(images: list[torch.Tensor], targets: list[dict] | None = None) -> Batch:
    """The same pictures as one padded batch of bytes."""
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = (int(side) for side in sizes.amax(dim=0))
    padded = torch.full((len(images), 3, height, width), 77, dtype=torch.uint8)  # not 0: the model blanks it
    infos = []
    for i, image in enumerate(images):
        padded[i, :, : image.shape[1], : image.shape[2]] = image
        infos.append(ImageInfo(i, "", image.shape[1], image.shape[2]))
    if targets is None:
        return Batch(padded, sizes, infos)
    slots = max(len(target["labels"]) for target in targets) + 2
    boxes = torch.zeros(len(images), slots, 4, dtype=torch.float64)
    labels = torch.zeros(len(images), slots, dtype=torch.int64)
    for i, target in enumerate(targets):
        boxes[i, : len(target["boxes"])] = target["boxes"]
        labels[i, : len(target["labels"])] = target["labels"] - 1
    valid = boxes[..., 2] > 0
    return Batch(padded, sizes, infos, InstanceTargets(boxes, labels, valid, torch.zeros_like(valid)))


@pytest.fixture(
    scope="module",
    params=[
        ("fasterrcnn_resnet50_fpn", "faster-rcnn_r50_fpn_torchvision"),
        ("fasterrcnn_resnet50_fpn_v2", "faster-rcnn_r50_fpn-v2_torchvision"),
    ],
    ids=["v1", "v2"],
)
def pair(request, real_data):
    """Torchvision's model and ours with its weights, in float64, and the pictures."""
    name, config = request.param
    images, targets = pictures(real_data)
    referee = scattered(name, images)
    model = ours(config).double()
    report = load_checkpoint(model, referee.state_dict())
    assert report.format == "torchvision"
    assert not report.missing and not report.skipped
    return referee, model.eval(), images, targets


@torch.no_grad()
def test_detections_equal_torchvisions(pair):
    referee, model, images, _ = pair
    wanted = referee([image.double() / 255 for image in images])
    found = model(as_batch(images))
    for theirs, mine in zip(wanted, found, strict=True):
        assert len(theirs["scores"]) >= 50 and theirs["labels"].unique().numel() >= 5
        assert len(mine) == len(theirs["scores"])
        assert torch.equal(mine.labels, theirs["labels"] - 1)
        torch.testing.assert_close(mine.scores, theirs["scores"], rtol=0, atol=1e-4)
        torch.testing.assert_close(mine.boxes, theirs["boxes"], rtol=0, atol=1e-2)


@torch.no_grad()
def test_losses_equal_torchvisions_on_the_same_samples(pair):
    referee, model, images, targets = pair
    wanted = train_without_norms(referee)(
        [image.double() / 255 for image in images], [dict(target) for target in targets]
    )
    found = train_without_norms(model)(as_batch(images, targets))
    names = {
        "rpn_cls": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "box_cls": "loss_classifier",
        "box_reg": "loss_box_reg",
    }
    for mine, theirs in names.items():
        assert wanted[theirs] > 1e-3
        torch.testing.assert_close(found[mine], wanted[theirs], rtol=0, atol=1e-4, check_dtype=False)
    referee.eval()
    model.eval()


def train_without_norms(model: nn.Module) -> nn.Module:
    """The model in training mode, its norms still using their statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def test_files_from_before_0_13_load_too(pair):
    """The published COCO weights of the first version are one: fewer `.0` in the names."""
    referee, model, *_ = pair
    old = {}
    for name, tensor in referee.state_dict().items():
        if isinstance(model.neck.lateral["c2"][-1], nn.Conv2d):  # without norms, as all were then
            name = re.sub(r"(inner_blocks\.\d|layer_blocks\.\d|head\.conv)\.0(\.0)?\.", r"\1.", name)
        old[name] = tensor
    now, then = (convert(state, model) for state in (referee.state_dict(), old))
    assert set(now) == set(then)
    assert all(torch.equal(tensor, then[name]) for name, tensor in now.items())


def test_a_model_for_cocos_80_classes_takes_their_rows(real_data, pair):
    """Torchvision's detectors have 91 outputs, one for each category id and the background."""
    referee = pair[0]
    data = json.loads((real_data / "coco-mini/annotations/instances_val2017.json").read_text())
    ids = sorted(category["id"] for category in data["categories"])
    assert len(ids) == 80

    class Eighty:
        num_classes = 80

    state = convert(referee.state_dict(), Eighty())
    theirs = referee.roi_heads.box_predictor
    assert torch.equal(state["box.classes.bias"], theirs.cls_score.bias[[*ids, 0]])
    assert torch.equal(state["box.deltas.bias"].view(80, 4), theirs.bbox_pred.bias.view(91, 4)[ids])
