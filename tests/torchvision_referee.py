"""Helpers to compare torchvision's detectors with ours: photos, torchvision's detector, and our equivalent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from chordate.config import load_config
from chordate.registry import MODELS
from chordate.structures import Batch, DatasetMeta, ImageInfo, InstanceTargets

SIDE = 96  # shorter side in pixels: small, since float64 is slow; the longer, 128, needs no padding
PROPOSALS = 32
WIDTH = 64  # channels of the FPN of `narrow`
FULLY_CONNECTED = 256  # channels of the box head of `narrow`
SLIM = 24  # channels of convolutional heads of `narrow`
NARROW = {"backbone": {"type": "resnet18"}, "neck": {"channels": WIDTH}}  # our settings for `narrow`, without the heads


def photos(cells: Path, side: int = SIDE) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A landscape photo and a portrait one (transposed), each `[3, H, W]` uint8, and their boxes and labels."""
    data = json.loads((cells / "coco.json").read_text())
    boxes_of: dict[int, list[dict]] = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        if min(annotation["bbox"][2:]) > 8:
            boxes_of[annotation["image_id"]].append(annotation)
    rich = [image for image in data["images"] if len(boxes_of[image["id"]]) >= 5][1:3]
    images, objects = [], []
    for image, transposed in zip(rich, (False, True), strict=True):
        pixels = cv2.imread(str(cells / "JPEGImages" / image["file_name"]))[:, :, ::-1]
        xywh = torch.tensor([annotation["bbox"] for annotation in boxes_of[image["id"]]])
        if transposed:
            pixels, xywh = pixels.transpose(1, 0, 2), xywh[:, [1, 0, 3, 2]]
        height, width = pixels.shape[:2]
        scale = side / min(height, width)
        size = (round(width * scale), round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        ratio = torch.tensor([size[0] / width, size[1] / height]).repeat(2)
        xyxy = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1) * ratio
        labels = torch.tensor([annotation["category_id"] for annotation in boxes_of[image["id"]]])
        objects.append({"boxes": xyxy.double(), "labels": labels})
    return images, objects


def standardize(layer: nn.Module, samples: torch.Tensor, std: float, mean: float = 0.0) -> None:
    """Shift and scale a linear or convolutional layer, so that each output has this mean and standard deviation.

    Args:
        samples: outputs of the layer before the change, `[M, O]`.
    """
    scale = std / samples.std(dim=0)
    layer.bias.data = (layer.bias - samples.mean(dim=0)) * scale + mean
    outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    layer.weight.data *= scale.reshape([-1 if d == outputs else 1 for d in range(layer.weight.dim())])


Predictors = dict[nn.Module, tuple[float, ...]]  # standard deviation and mean of each layer's outputs


@torch.no_grad()
def scatter(model: nn.Module, images: list[torch.Tensor], stages: list[Predictors]) -> nn.Module:
    """Set a torchvision detector's random weights and statistics so that it detects many objects of many classes.

    A freshly initialized detector has equal scores everywhere, and its BatchNorms are identities. This function
    randomizes the norms' weights and biases, computes their running statistics from the images, and scales the
    prediction layers so that their outputs vary over the image.

    Args:
        stages: groups of prediction layers in the order of the forward pass; a group is scaled after the earlier ones.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(std=0.2)
        norm.momentum = 1.0  # the running statistics become those of the latest batch
    seen: dict[nn.Module, list[torch.Tensor]] = {}

    def note(layer, _, out):
        seen.setdefault(layer, []).append(out.permute(0, 2, 3, 1).flatten(0, 2) if out.dim() == 4 else out)

    hooks = [layer.register_forward_hook(note) for stage in stages for layer in stage]
    model.eval()
    for stage in stages:
        for norm in norms:
            norm.train()
        seen.clear()
        model([image.double() / 255 for image in images])
        for layer, wanted in stage.items():
            standardize(layer, torch.cat(seen[layer]), *wanted)
    for hook in hooks:
        hook.remove()
    return model.eval()


def narrow(model: nn.Module) -> None:
    """Replace a detector's backbone by ResNet-18, and its FPN, RPN head and box head by narrow ones.

    With all channels, float64 takes many seconds; test_torchvision_detection.py compares detectors of full size.
    """
    heads, norm = model.roi_heads, None
    if isinstance(heads.box_head, FastRCNNConvFCHead):  # v2 models have norms in the FPN and in the heads
        norm = nn.BatchNorm2d
    stages = {f"layer{number + 1}": str(number) for number in range(4)}
    body = torchvision.models.resnet18(weights=None)
    model.backbone = BackboneWithFPN(body, stages, [64, 128, 256, 512], WIDTH, norm_layer=norm)
    anchors = model.rpn.head.cls_logits.out_channels
    model.rpn.head = RPNHead(WIDTH, anchors, conv_depth=len(model.rpn.head.conv))
    classes = heads.box_predictor.cls_score.out_features
    if norm is None:
        heads.box_head = TwoMLPHead(WIDTH * 49, FULLY_CONNECTED)
    else:
        heads.box_head = FastRCNNConvFCHead((WIDTH, 7, 7), [SLIM] * 4, [FULLY_CONNECTED], norm_layer=norm)
    heads.box_predictor = FastRCNNPredictor(FULLY_CONNECTED, classes)


def scattered(
    name: str,
    images: list[torch.Tensor],
    shifts: float = 0.3,
    boxes: float = 1.0,
    change: Callable[[nn.Module], None] = lambda model: None,
    **settings: Any,
) -> nn.Module:
    """A two-stage detector from torchvision, prepared by `scatter`.

    Args:
        shifts: standard deviation of the RPN's deltas.
        boxes: standard deviation of the box head's deltas.
        change: a function that modifies the detector in place, such as `narrow`.
        settings: arguments of torchvision's function `name`.
    """
    torch.manual_seed(5)
    model = torchvision.models.detection.__dict__[name](
        weights=None,
        weights_backbone=None,
        min_size=SIDE,  # the images' shorter side, so that they are not resized
        max_size=10_000,
        rpn_post_nms_top_n_test=PROPOSALS,
        rpn_post_nms_top_n_train=PROPOSALS,
        rpn_batch_size_per_image=10**6,  # samples all anchors, so that losses are deterministic
        box_batch_size_per_image=10**6,
        rpn_positive_fraction=0.5,
        box_positive_fraction=0.5,
        **{"box_detections_per_img": 10_000, **settings},  # no limit, to compare the counts
    )
    change(model)
    heads = model.roi_heads
    stages: list[Predictors] = [
        {model.rpn.head.cls_logits: (2.0,), model.rpn.head.bbox_pred: (shifts,)},
        {heads.box_predictor.cls_score: (3.0,), heads.box_predictor.bbox_pred: (boxes,)},
    ]
    if heads.has_mask():
        stages.append({heads.mask_predictor.mask_fcn_logits: (2.0,)})
    if heads.has_keypoint():
        stages.append({heads.keypoint_predictor.kps_score_lowres: (2.0,)})
    return scatter(model.double(), images, stages)


def ours(config: str, num_classes: int = 90, num_keypoints: int | None = None, **parts: dict[str, Any]) -> nn.Module:
    """Our equivalent of a `scattered` detector; `parts` maps components of the config to further settings."""
    model = load_config(config).model.to_dict()
    model["backbone"].update(pretrained=None)
    if isinstance(model["backbone"]["norm"], dict):
        model["backbone"]["norm"]["eps"] = 1e-5  # the config's eps of 0 is for the published weights
    if "rpn" in model:
        model["rpn"].update(post_nms_topk=(PROPOSALS, PROPOSALS), batch_size_per_image=10**6)
        model["box"].update(detections_per_image=10_000, batch_size_per_image=10**6, positive_fraction=0.5)
    for part, settings in parts.items():
        model[part].update(settings)
    classes = tuple(f"class {index}" for index in range(num_classes))
    return MODELS.build(model, meta=DatasetMeta(classes, extra={"num_keypoints": num_keypoints}))


def as_batch(images: list[torch.Tensor], targets: list[dict] | None = None) -> Batch:
    """The images as one padded uint8 batch; labels, which start at 1 in torchvision, start at 0."""
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = (int(side) for side in sizes.amax(dim=0))
    padded = torch.full((len(images), 3, height, width), 77, dtype=torch.uint8)  # the model must set the padding to 0
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


def train_without_norms(model: nn.Module) -> nn.Module:
    """Put the model in training mode except its BatchNorms, which keep using their running statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model
