"""Builds our detectors and torchvision's with the same weights, and random inputs for both, for the benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

import chordate
from chordate.structures import BITMAP_SIZE, Batch, ImageInfo, InstanceTargets

OBJECTS = 8  # training objects per image, about COCO's mean of 7.3
MAX_DETECTIONS = 100  # per image, the limit of both libraries' R-CNNs; both RetinaNets have a limit of 300
TWO_STAGE = {"faster-rcnn": FasterRCNN, "mask-rcnn": MaskRCNN}
THEIRS = {**TWO_STAGE, "keypoint-rcnn": KeypointRCNN, "retinanet": RetinaNet}


def sides(name: str, device: torch.device, images: Tensor) -> tuple[Any, Any]:
    """Our model and torchvision's, with the same weights; the last three stages are trainable, BatchNorm is frozen.

    Calibrates the norm statistics on the first two of `images` `[N, 3, H, W]` uint8, and scales the classifier's
    weights until the models output at least 100 detections for each of these images (fewer if NMS keeps fewer in a
    small image).
    """
    height, width = images.shape[-2:]
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)} if name == "retinanet" else {}
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3, **levels
    )
    # A softmax classifier has one more output, the background.
    classes, outputs = {"keypoint-rcnn": (1, 2), "retinanet": (91, 91)}.get(name, (90, 91))
    theirs = THEIRS[name](backbone, num_classes=outputs, min_size=min(height, width), max_size=max(height, width))
    theirs.to(device).eval()
    scores = (
        theirs.head.classification_head.cls_logits if name == "retinanet" else theirs.roi_heads.box_predictor.cls_score
    )
    floats = [image.float().div(255).to(device) for image in images[:2]]
    with torch.inference_mode():
        calibrate(theirs.backbone, theirs.transform(floats)[0].tensors)
        for _ in range(20):
            if all(len(output["boxes"]) >= MAX_DETECTIONS for output in theirs(floats)):
                break
            scores.weight.mul_(1.5)
    ours = chordate.build_model(f"{name}_r50_fpn_torchvision", num_classes=classes, pretrained=False)
    chordate.load_checkpoint(ours, {key: value.cpu() for key, value in theirs.state_dict().items()})
    ours.pipeline = [
        {
            "type": "ResizeShortestEdge",
            "size": min(height, width),
            "max_size": max(height, width),
            "rounding": "torchvision",
        }
    ]
    return ours.to(device), theirs


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the statistics of every FrozenBN to those of its input; with mean 0 and variance 1, activations
    overflow in random networks."""

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))  # type: ignore[operator]
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))  # type: ignore[operator]

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    model(images)
    for hook in hooks:
        hook.remove()


def random_images(count: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random uint8 images `[N, 3, H, W]`, boxes `[N, G, 4]` and labels `[N, G]`."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, height // 16, width // 16), generator=random).float()
    images = torch.nn.functional.interpolate(images, (height, width), mode="bilinear").to(torch.uint8)
    span = torch.tensor([width, height, width, height])
    corner = torch.rand(count, OBJECTS, 2, generator=random) * 0.7
    extent = 0.03 + 0.27 * torch.rand(count, OBJECTS, 2, generator=random)
    boxes = torch.cat([corner, corner + extent], dim=-1) * span
    return images, boxes, torch.randint(0, 90, (count, OBJECTS), generator=random)


def ellipses(boxes: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
    """Bitmaps `[M, height, width]` of the ellipses inscribed in `boxes` `[M, 4]`.

    Bitmap i covers the box `frames[i]`, x1, y1, x2, y2 in pixels.
    """
    left, top, right, bottom = frames[:, :, None, None].unbind(1)
    x = left + (torch.arange(width) + 0.5) / width * (right - left)
    y = top + (torch.arange(height)[:, None] + 0.5) / height * (bottom - top)
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    return (((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1).to(torch.uint8)


def our_batch(images: Tensor, boxes: Tensor, labels: Tensor) -> Batch:
    """A batch as our loader yields it: each mask is a 112×112 bitmap, cropped to its box."""
    count, _, height, width = images.shape
    filled = torch.ones(count, OBJECTS, dtype=torch.bool)
    masks = ellipses(boxes.flatten(0, 1), boxes.flatten(0, 1), BITMAP_SIZE, BITMAP_SIZE)
    targets = InstanceTargets(boxes, labels, filled, ~filled, masks.unflatten(0, (count, OBJECTS)))
    infos = [ImageInfo(i, f"image {i}", height, width) for i in range(count)]
    return Batch(images, torch.tensor([[height, width]] * count), infos, targets)


def their_batch(
    images: Tensor, boxes: Tensor, labels: Tensor, device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A batch for torchvision's detectors: a list of float images, and masks of the size of the image."""
    height, width = images.shape[-2:]
    frame = torch.tensor([0.0, 0.0, width, height]).expand(OBJECTS, 4)
    targets = [
        {"boxes": b.to(device), "labels": n.to(device) + 1, "masks": ellipses(b, frame, height, width).to(device)}
        for b, n in zip(boxes, labels)
    ]
    return [image.float().div(255).to(device) for image in images], targets
