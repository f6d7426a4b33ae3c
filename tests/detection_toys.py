"""Inputs that the detection tests share (feature maps, ground truth, boxes), and checks for host syncs."""

from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from chordate.contracts import FeatureSpec
from chordate.ops import nms
from chordate.structures import Batch, InstanceTargets

STRIDES = (4, 8, 16, 32, 64)


def pyramid(channels: int = 16, levels: int = 5) -> dict[str, FeatureSpec]:
    """The feature specs of an FPN: p2, p3 …"""
    return {f"p{i + 2}": FeatureSpec(channels, stride) for i, stride in enumerate(STRIDES[:levels])}


def feature_maps(side: int, channels: int = 16, images: int = 2, levels: int = 5) -> dict[str, Tensor]:
    """Random feature maps `[images, channels, S, S]`, float32; S is side / stride, rounded up."""
    return {
        f"p{i + 2}": torch.randn(images, channels, -(-side // stride), -(-side // stride))
        for i, stride in enumerate(STRIDES[:levels])
    }


def instances(
    boxes: list[list[list[float]]],
    labels: list[list[int]] | None = None,
    crowd: list[list[bool]] | None = None,
    slots: int = 8,
) -> InstanceTargets:
    """Ground truth from one list of boxes per image, padded to `slots` boxes."""
    padded = torch.zeros(len(boxes), slots, 4)
    valid = torch.zeros(len(boxes), slots, dtype=torch.bool)
    padded_labels = torch.zeros(len(boxes), slots, dtype=torch.int64)
    padded_crowd = torch.zeros_like(valid)
    for i, image_boxes in enumerate(boxes):
        count = len(image_boxes)
        if count:
            padded[i, :count] = torch.tensor(image_boxes, dtype=torch.float32)
        valid[i, :count] = True
        if labels is not None:
            padded_labels[i, :count] = torch.tensor(labels[i], dtype=torch.int64)
        if crowd is not None:
            padded_crowd[i, :count] = torch.tensor(crowd[i], dtype=torch.bool)
    return InstanceTargets(padded, padded_labels, valid, padded_crowd)


def random_boxes(*shape: int, span: float = 256.0, generator: torch.Generator | None = None) -> Tensor:
    """Random boxes `[*shape, 4]` with sides of 2 … span / 2 px, inside a square of span × span px."""
    corner = torch.rand(*shape, 2, generator=generator) * span / 2
    size = 2 + torch.rand(*shape, 2, generator=generator) * (span / 2 - 2)
    return torch.cat((corner, corner + size), dim=-1)


def train_on_fake_tensors(build: Callable[[], nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
    """A training step on tensors without values: an operator whose output shape depends on values raises an error, and
    so does a host sync. The step takes the GPU's road through the code; on the CPU, padding is dropped where possible.
    Returns the losses."""
    with FakeTensorMode() as mode, patch("torch.compiler.is_compiling", return_value=True):
        losses = build()(batch.map_tensors(mode.from_tensor))
        sum(losses.values()).backward()
    return losses


def assert_never_waits(monkeypatch, model: nn.Module, first: Batch, second: Batch) -> None:
    """Check that a training step on `second`, after one on `first`, makes no host sync on a GPU. NMS is excepted, since
    its output size depends on the data."""
    plain = nms.nms

    def may_wait(*args):
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        kept = plain(*args)
        torch.cuda.set_sync_debug_mode(mode)
        return kept

    monkeypatch.setattr(nms, "nms", may_wait)
    model.cuda()
    first, second = first.to("cuda"), second.to("cuda")
    sum(model(first).values()).backward()  # warm up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(second).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
