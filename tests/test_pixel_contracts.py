"""Heads that predict per pixel, and pixel losses, are refused in one line if they break their contract."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from test_panoptic_models import panoptic_deeplab
from test_semantic_models import META, segmenter
from torch import Tensor, nn

from chordate.contracts import FeatureSpec
from chordate.errors import ConfigError
from chordate.heads.deconv import DeconvHead
from chordate.heads.dual_decoder import CenterOffsetHead
from chordate.heads.semantic_head import SemanticHead
from chordate.models.pose_estimator import PoseEstimator
from chordate.ops.pixel_losses import CrossEntropy
from chordate.pixel_contracts import check_pixel_head
from chordate.structures import DatasetMeta, Skeleton

TINY = {"type": "resnet18", "base_channels": 8, "out": ["c4", "c5"]}
K = len(META.classes)


class Head(nn.Module):
    """A valid head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, K, 1)

    def forward(self, maps: dict[str, Tensor]) -> Any:
        return self.conv(maps["c5"])

    def loss(self, logits: Any, labels: Tensor) -> Any:
        sizes = labels.shape[-2:]
        return {"semantic": CrossEntropy()(nn.functional.interpolate(logits, sizes), labels)}


class FewClasses(Head):
    def forward(self, maps):
        return super().forward(maps)[:, :1]


class ManyClasses(Head):
    def forward(self, maps):
        return torch.cat([super().forward(maps)] * 3, 1)


class DictOfLogits(Head):
    def forward(self, maps):
        return {"x": super().forward(maps)}


class OneImage(Head):
    def forward(self, maps):
        return super().forward(maps)[0]


class OtherMap(Head):
    def forward(self, maps):
        return maps["c9"]


class NoLosses(Head):
    def loss(self, logits, labels):
        return None


class EmptyLosses(Head):
    def loss(self, logits, labels):
        return {}


class LossPerImage(Head):
    def loss(self, logits, labels):
        return {"semantic": logits.mean((1, 2, 3))}


class Detached(Head):
    def loss(self, logits, labels):
        return {"semantic": logits.detach().mean()}


class ReadsValues(Head):
    def loss(self, logits, labels):
        return {"semantic": logits.mean() * (2 if float(logits.detach().mean()) > 0 else 1)}


class NoFeatures(SemanticHead):
    def __init__(self) -> None:
        super().__init__(8, K)


class WrongChannels(NoFeatures):
    def features(self, maps):
        return maps["c5"]


HEADS = [
    (FewClasses, f"FewClasses: forward must return float logits [2, {K}, h, w] for 2 images, got [2, 1, 4, 4]"),
    (ManyClasses, f"ManyClasses: forward must return float logits [2, {K}, h, w] for 2 images, got [2, 21, 4, 4]"),
    (DictOfLogits, f"DictOfLogits: forward must return float logits [2, {K}, h, w] for 2 images, got dict"),
    (OneImage, f"OneImage: forward must return float logits [2, {K}, h, w] for 2 images, got [7, 4, 4]"),
    (OtherMap, "OtherMap: forward fails for feature maps c4, c5: 'c9'"),
    (NoLosses, "NoLosses.loss must return a dict of losses, not NoneType"),
    (EmptyLosses, "EmptyLosses.loss must return a dict of losses, not an empty dict"),
    (LossPerImage, 'LossPerImage: loss "semantic" is not a scalar tensor but [2]'),
    (Detached, "Detached.loss: no loss has a gradient"),
    (NoFeatures, "NoFeatures does not implement SemanticHead.features, which is required"),
    (WrongChannels, "WrongChannels.features must return [N, 8, h, w] as set by `channels`; got [2, 64, 4, 4]"),
]


@pytest.mark.parametrize("role", ["head", "auxiliary"])
@pytest.mark.parametrize(("kind", "message"), HEADS, ids=[kind.__name__ for kind, _ in HEADS])
def test_a_head_that_breaks_its_contract_is_refused(role, kind, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        segmenter(**{"head": Head(), "backbone": TINY, role: kind()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Head, ReadsValues])
def test_a_checked_head_keeps_its_state(kind):
    head = kind()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_pixel_head(head, {"c4": FeatureSpec(32, 16), "c5": FeatureSpec(64, 32)}, K)
    assert head.training and all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in head.parameters())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_can_be_built_without_gradients(mode):
    with mode():
        assert segmenter(head=Head(), backbone=TINY)


SKELETON = Skeleton(("head", "left_hand", "right_hand"), ((0, 1), (0, 2)))
C5 = {"c5": FeatureSpec(64, 32)}


class Heatmaps(DeconvHead):
    """A valid head."""

    def __init__(self, keypoints: int = 3) -> None:
        super().__init__(C5, keypoints, channels=8)


class HeatmapsOfOneImage(Heatmaps):
    def forward(self, maps):
        return super().forward(maps)[0]


class HeatmapsFlat(Heatmaps):
    def decode(self, heatmaps):
        return super().decode(heatmaps).flatten(1)


class HeatmapsLossPerKeypoint(Heatmaps):
    def loss(self, heatmaps, keypoints):
        return {"heatmap": heatmaps.mean((0, 2, 3))}


class HeatmapsDetached(Heatmaps):
    def loss(self, heatmaps, keypoints):
        return super().loss(heatmaps.detach(), keypoints)


HEATMAP_HEADS = [
    (Heatmaps(5), "Heatmaps: forward must return float heatmaps [2, 3, h, w] for 2 images, got [2, 5, 32, 32]"),
    (HeatmapsOfOneImage(), "HeatmapsOfOneImage: forward must return float heatmaps [2, 3, h, w] for 2 images, got [3,"),
    (HeatmapsFlat(), "HeatmapsFlat.decode must return keypoints [2, 3, 3] for heatmaps [2, 3, 32, 32], got [2, 9]"),
    (HeatmapsLossPerKeypoint(), 'HeatmapsLossPerKeypoint: loss "heatmap" is not a scalar tensor but [3]'),
    (HeatmapsDetached(), "HeatmapsDetached.loss: no loss has a gradient; compute the losses from the heatmaps"),
]


@pytest.mark.parametrize(("head", "message"), HEATMAP_HEADS, ids=[message[:30] for _, message in HEATMAP_HEADS])
def test_a_pose_head_that_breaks_its_contract_is_refused(head, message):
    meta = DatasetMeta(("person",), SKELETON)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        PoseEstimator(meta, {**TINY, "out": ["c5"]}, head)
    assert "\n" not in str(caught.value)


MAPS = {"c2": FeatureSpec(8, 4), "c3": FeatureSpec(16, 8), "c5": FeatureSpec(64, 16)}


class CenterMaps(CenterOffsetHead):
    """A valid head."""

    def __init__(self, features: Any = MAPS) -> None:
        super().__init__(features, channels=8, aspp_channels=8)


class CentersNotResized(CenterMaps):
    def resize(self, outputs, size):
        return outputs[0][:, 0], outputs[1]


class CentersWithChannel(CenterMaps):
    def resize(self, outputs, size):
        heatmap, offsets = super().resize(outputs, size)
        return heatmap[:, None], offsets


class CentersAlone(CenterMaps):
    def resize(self, outputs, size):
        return super().resize(outputs, size)[0]


class CentersNoLosses(CenterMaps):
    def loss(self, outputs, targets):
        return None


class CentersDetached(CenterMaps):
    def loss(self, outputs, targets):
        return super().loss([x.detach() for x in outputs], targets)


class CentersOfBoxes(CenterMaps):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets.instances)


CENTER_HEADS = [
    (CentersNotResized(), "CentersNotResized.resize must return a heatmap [2, 128, 128] and offsets [2, 2, 128, 128]"),
    (CentersWithChannel(), "for 2 images of 128×128 px, got [[2, 1, 128, 128], [2, 2, 128, 128]]"),
    (CentersAlone(), "px, got [2, 128, 128]"),
    (CentersNoLosses(), "CentersNoLosses.loss must return a dict of losses, not NoneType"),
    (
        CentersDetached(),
        "CentersDetached.loss: no loss has a gradient; compute the losses from the outputs without detach",
    ),
    (CentersOfBoxes(), "CentersOfBoxes.loss: forward fails for its outputs and labels [2, 128, 128]: "),
    (CenterMaps({**MAPS, "c5": FeatureSpec(32, 16)}), "CenterMaps: forward fails for feature maps c2, c3, c5: "),
]


@pytest.mark.parametrize(("head", "message"), CENTER_HEADS, ids=[message[:30] for _, message in CENTER_HEADS])
def test_a_center_head_that_breaks_its_contract_is_refused(head, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        panoptic_deeplab(center=head)
    assert "\n" not in str(caught.value)


def test_heads_of_poses_and_centers_that_keep_their_contracts_are_accepted():
    assert panoptic_deeplab(center=CenterMaps())
    assert PoseEstimator(DatasetMeta(("person",), SKELETON), {**TINY, "out": ["c5"]}, Heatmaps())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_pose_and_panoptic_models_can_be_built_without_gradients(mode):
    with mode():
        assert panoptic_deeplab() and PoseEstimator(DatasetMeta(("person",), SKELETON), TINY, "DeconvHead")


class LossVector(nn.Module):
    def forward(self, logits, labels):
        return logits.mean((1, 2, 3))


class LossNone(nn.Module):
    def forward(self, logits, labels):
        return None


class LossDict(nn.Module):
    def forward(self, logits, labels):
        return {"a": logits.mean()}


class LossOneArgument(nn.Module):
    def forward(self, logits):
        return logits.mean()


class LossRaises(nn.Module):
    def forward(self, logits, labels):
        raise ValueError("no\nway")


class LossFunction:
    def __call__(self, logits, labels):
        return logits.mean()


LOSSES = [
    ({"type": LossVector}, "loss LossVector must return a scalar tensor, got [2]"),
    ({"type": LossNone}, "loss LossNone must return a scalar tensor, got NoneType"),
    ({"type": LossDict}, "loss LossDict must return a scalar tensor, got dict"),
    ({"type": LossOneArgument}, "loss LossOneArgument: forward fails for logits [2, 7, 8, 8] and labels [2, 8, 8]: "),
    ({"type": LossRaises}, "loss LossRaises: forward fails for logits [2, 7, 8, 8] and labels [2, 8, 8]: no way"),
    ({"type": LossFunction}, "loss LossFunction is not an nn.Module"),
    (
        {"type": "CrossEntropy", "class_weights": [1.0, 2.0]},
        "class_weights has 2 entries for 7 classes; give",
    ),
]


@pytest.mark.parametrize(("loss", "message"), LOSSES, ids=[message[5:25] for _, message in LOSSES])
def test_a_pixel_loss_that_breaks_its_contract_is_refused(loss, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        segmenter({"type": "FCNHead", "losses": [loss]}, backbone=TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "loss", [{"class_weights": [1.0] * K}, {"hard_fraction": 0.2}, {"type": "Dice"}, {"type": "PixelFocal"}]
)
def test_our_pixel_losses_fulfill_the_contract(loss):
    segmenter({"type": "FCNHead", "losses": [{"type": "CrossEntropy"} | loss]}, backbone=TINY)
