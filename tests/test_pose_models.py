"""PoseEstimator and DeconvHead (Simple Baselines, Xiao et al. 2018): sizes, weights, loss, flip test, predictions."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
import torchvision
from backbone_referee import randomize, without_init
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import chordate
from chordate.config import load_config
from chordate.data.coco_classes import COCO_SKELETON
from chordate.errors import ChordateError, ConfigError, DataError
from chordate.models.pose_estimator import PoseEstimator
from chordate.ops.gaussian_heatmaps import gaussian_heatmaps, shift_right
from chordate.registry import HEADS
from chordate.structures import Batch, CropInfo, DatasetMeta, ImageInfo, Poses, PoseTargets, Skeleton

META = DatasetMeta(("person",), Skeleton(("head", "left_hand", "right_hand"), ((0, 1), (0, 2))))
SMALL = {"type": "resnet18", "base_channels": 8, "out": ["c5"]}


def small_model(head: dict | None = None, **settings) -> PoseEstimator:
    torch.manual_seed(0)
    return PoseEstimator(META, SMALL, {"type": "DeconvHead", "channels": 16, **(head or {})}, **settings).eval()


def batch_of(images: Tensor, targets: PoseTargets | None = None, **crop) -> Batch:
    size = images.shape[-2], images.shape[-1]
    info = CropInfo(0, "a.png", *size, **{"box": (0.0, 0.0, 9.0, 9.0), "size": size, **crop})
    return Batch(images, torch.tensor([size] * len(images)), [info] * len(images), targets)


def noise(count: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.randint(0, 256, (count, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


# Sizes


@pytest.mark.parametrize(
    ("name", "millions", "gflops"),
    [
        ("r50", 34.0, 8.9),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in (("r101", 53.0, 12.4), ("r152", 68.6, 15.7))),
    ],
)
def test_parameters_and_operations_are_the_papers(name, millions, gflops):
    """Table 1 of Sun et al. 2019 (HRNet) has both numbers for Simple Baselines at 256×192.

    Their script counts multiplications in units of 2^30, and counts the whole 4×4 kernel of a deconvolution for each
    output cell, although with stride 2 only a quarter of the kernel is used. torch's counter counts the operations that
    are computed, including additions.
    """
    with torch.device("meta"):
        model = chordate.build_model(f"pose_{name}_256x192_coco", pretrained=False)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    counted = {"conv": 0, "deconv": 0}

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        kind = "deconv" if isinstance(module, nn.ConvTranspose2d) else "conv"
        counted[kind] += module.weight.numel() * output.shape[-2] * output.shape[-1]

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        images = torch.zeros(1, 3, 256, 192, device="meta")
        heatmaps = model.head(model.backbone(images))
    assert heatmaps.shape == (1, 17, 64, 48)
    assert (counted["conv"] + counted["deconv"]) / 2**30 == pytest.approx(gflops, abs=0.1)
    for hook in hooks:
        hook.remove()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.head(model.backbone(images))
    assert counter.get_total_flops() == 2 * (counted["conv"] + counted["deconv"] // 4)


def test_the_head_has_the_papers_layers_and_initialization():
    head = HEADS.build("DeconvHead", in_features={"c5": chordate.FeatureSpec(2048, 32)}, num_keypoints=17)
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    shapes = [(2048, 256, 4, 4), (256, 256, 4, 4), (256, 256, 4, 4), (17, 256, 1, 1)]
    assert [tuple(conv.weight.shape) for conv in convs] == shapes and head.stride == 4
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert [conv.bias is None for conv in convs] == [True, True, True, False] and not convs[3].bias.any()


DENSE = {"type": "DenseNet", "blocks": [2, 2, 2, 2]}


@pytest.mark.parametrize("backbone", [{"type": "convnext_tiny"}, DENSE, {"type": "resnet18"}], ids=str)
def test_any_backbone_gives_heatmaps_of_a_quarter_of_the_size(backbone):
    with torch.device("meta"):
        model = PoseEstimator(META, backbone, "DeconvHead")
        assert model.heatmaps(torch.zeros(1, 3, 128, 96)).shape == (1, 3, 32, 24)


def test_parts_that_do_not_fit_are_one_line():
    with pytest.raises(ConfigError, match=r"DeconvHead: deconvs must be ≤ 5 for c5 of stride 32, got 6"):
        small_model({"deconvs": 6})
    with pytest.raises(ConfigError, match="PoseEstimator needs keypoints"):
        PoseEstimator(DatasetMeta(("person",)), SMALL, "DeconvHead")
    with pytest.raises(DataError, match="PoseEstimator trains on PoseTargets"):
        small_model().loss(Batch(noise(), torch.tensor([[64, 64]] * 2), [], object()))


def test_composed_names_take_any_backbone():
    with torch.device("meta"):
        model = chordate.build_model("pose_convnext_tiny_256x192_coco", pretrained=False)
        larger = chordate.build_model("pose_r101_384x288_coco", pretrained=False)
    assert model.meta.skeleton == COCO_SKELETON and type(model.backbone).__name__ == "ConvNeXt"
    assert larger.head.sigma == 3
    with pytest.raises(ChordateError, match="did you mean"):
        chordate.build_model("pose_r50_256x190_coco")


# Weights


class PoseResNet(nn.Module):
    """The authors' network: torchvision's ResNet-50 up to `layer4`, then deconvolutions and a 1×1 convolution."""

    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet50()
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(resnet, name))
        layers: list[nn.Module] = []
        for channels in (2048, 256, 256):
            layers += [nn.ConvTranspose2d(channels, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(256, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.final_layer(self.deconv_layers(self.layer4(self.layer3(self.layer2(self.layer1(x))))))


@pytest.fixture(scope="module")
def authors() -> PoseResNet:
    torch.manual_seed(0)
    with without_init():
        network = PoseResNet()
    return randomize(network).eval()


def before_loading(config="pose_r50_256x192_coco") -> chordate.Model:
    with without_init():
        return chordate.build_model(config, pretrained=False)


def as_mmpose(name: str) -> str:
    return f"head.{name}" if name.startswith(("deconv_layers", "final_layer")) else f"backbone.{name}"


@pytest.mark.parametrize("library", ["authors", "mmpose"])
def test_checkpoints_of_the_authors_and_of_mmpose_give_their_heatmaps(library, authors):
    state = authors.state_dict()
    if library == "mmpose":
        state = {as_mmpose(name): tensor for name, tensor in state.items()}
    ours = before_loading()
    with pytest.warns(UserWarning, match="trained with other settings"):
        report = chordate.load_checkpoint(ours, {"state_dict": state})
    assert report.format == "Simple Baselines" and not report.missing and not report.skipped
    theirs, ours = copy.deepcopy(authors).double(), ours.double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected, found = theirs(images), ours.head(ours.backbone(images))
    assert expected.abs().max() > 1e-3 and torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert report.meta.skeleton.names == COCO_SKELETON.names


@pytest.mark.parametrize(
    ("library", "options"),
    [
        ("authors", ["model.head.aligned=False", "model.flip_shift=True", "model.preprocess.bgr=True"]),
        ("mmpose", ["model.head.aligned=False", "model.flip_shift=True"]),
    ],
)
def test_loading_weights_names_the_settings_that_they_need(library, options, authors):
    """With the settings that the warning names, loading does not warn, and pixels are normalized as in the library.

    Both the authors' code and MMPose list ImageNet's mean and std in the order R, G, B. The authors' code applies them
    to channels in the order B, G, R, and MMPose applies them to channels in the order R, G, B.
    """
    state = authors.state_dict()
    if library == "mmpose":
        state = {as_mmpose(name): tensor for name, tensor in state.items()}
    model = before_loading()
    with pytest.warns(UserWarning) as caught:
        chordate.load_checkpoint(model, {"state_dict": state})
    (message,) = (str(one.message) for one in caught)
    named = message.split("--cfg-options ")[1].split()
    assert named == options and "\n" not in message
    settings = {key: value == "True" for key, value in (one.split("=") for one in named)}
    model = before_loading(load_config("pose_r50_256x192_coco", settings))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chordate.load_checkpoint(model, {"state_dict": state})
    assert model.head.offset == 0.5 and model.flip_shift
    color = torch.tensor([10.0, 100, 200])[None, :, None, None]
    mean, std = (torch.tensor(x) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixel = [200, 100, 10] if library == "authors" else [10, 100, 200]
    expected = (torch.tensor(pixel) / 255 - mean) / std
    torch.testing.assert_close(model.preprocess(color, torch.tensor([[1, 1]])).flatten(), expected)


# The loss


@pytest.mark.parametrize("aligned", [True, False])
def test_the_loss_is_the_mean_of_half_the_squared_errors_of_labeled_keypoints(aligned):
    """The reference is the authors' `JointsMSELoss`, written as loops over keypoints, objects and cells.

    An unlabeled keypoint has an error of 0, and counts in the mean.
    """
    torch.manual_seed(0)
    head = small_model({"aligned": aligned, "sigma": 1.5}).double().head
    heatmaps = torch.rand(2, 3, 8, 6, dtype=torch.float64)
    keypoints = torch.rand(2, 3, 3) * torch.tensor([24.0, 32.0, 0])
    keypoints[..., 2] = torch.tensor([[2, 0, 1], [1, 1, 0]])
    total = 0.0
    for k in range(3):
        errors = []
        for n in range(2):
            x, y, visibility = keypoints[n, k].tolist()
            for row in range(8):
                for column in range(6):
                    center = (4 * column + 2, 4 * row + 2) if aligned else (4 * column + 0.5, 4 * row + 0.5)
                    distance = ((center[0] - x) / 4) ** 2 + ((center[1] - y) / 4) ** 2
                    weight = float(visibility > 0)
                    errors.append((weight * (heatmaps[n, k, row, column] - math.exp(-distance / (2 * 1.5**2)))) ** 2)
        total += 0.5 * sum(errors) / len(errors)
    assert head.loss(heatmaps, keypoints)["heatmap"].item() == pytest.approx(float(total) / 3)


def test_a_batch_without_labeled_keypoints_has_no_loss_and_finite_gradients():
    model = small_model().train()
    targets = PoseTargets(torch.zeros(2, 3, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    loss = model.loss(batch_of(noise(), targets))["heatmap"]
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_training_step_never_waits_for_the_device():
    """Tensors on the meta device have no values, so reading one would fail."""
    targets = PoseTargets(*(torch.zeros(2, *rest, device="meta") for rest in ((3, 3), (4,), ())))
    batch = batch_of(torch.zeros(2, 3, 64, 64, device="meta"), targets)
    small_model().to("meta").train().loss(batch.to("meta"))["heatmap"].backward()


def test_gradients_lower_the_loss():
    model = small_model().train()
    keypoints = torch.tensor([[[20.0, 30.0, 2], [40.0, 12.0, 1], [5.0, 50.0, 2]]]).expand(2, -1, -1)
    batch = batch_of(noise(), PoseTargets(keypoints, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)))
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(15):
        losses.append(model(batch)["heatmap"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


# Prediction


@pytest.mark.parametrize("shift", [False, True])
def test_the_flip_test_averages_the_heatmaps_of_the_mirrored_image(shift):
    model = small_model(flip_shift=shift).double()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        plain = model.head(model.backbone(images))
        mirrored = model.head(model.backbone(torch.flip(images, [3])))
        found = model.heatmaps(images)
    expected = torch.zeros_like(plain)
    for k, other in enumerate((0, 2, 1)):
        for column in range(16):
            source = 15 - (column - 1 if shift and column else column)
            expected[0, k, :, column] = (plain[0, k, :, column] + mirrored[0, other, :, source]) / 2
    assert torch.allclose(found, expected, atol=1e-12)
    single = small_model(flip_test=False).double()
    assert torch.allclose(single.heatmaps(images), plain, atol=1e-12)


def test_mirrored_images_have_mirrored_poses():
    """With the flip test and aligned cells, mirroring is exact: x becomes 64 - x, and left and right are swapped."""
    model = small_model({"decoder": "dark"}).double()
    model.head.heatmaps.weight.data *= 1000
    images = noise(1)
    points, mirrored = (model.predict(batch_of(i))[0].keypoints[0] for i in (images, images.flip(-1)))
    assert torch.allclose(mirrored[[0, 2, 1]][:, 1:], points[:, 1:], atol=1e-6)
    assert torch.allclose(64 - mirrored[[0, 2, 1]][:, 0], points[:, 0], atol=1e-6)


class Oracle(nn.Module):
    """A head that returns Gaussians at the given positions (in pixels of the batch), whatever the image is."""

    def __init__(self, points: Tensor, heights: Tensor, head: nn.Module):
        super().__init__()
        self.points, self.heights, self.decode = points, heights, head.decode
        self.stride, self.offset = head.stride, head.offset

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        height, width = (side * 8 for side in maps["c5"].shape[-2:])
        cells = (self.points - self.offset) / self.stride
        heatmaps = gaussian_heatmaps(cells, (height, width), 2.0) * self.heights[..., None, None]
        return heatmaps.expand(len(maps["c5"]), -1, -1, -1)

    def loss(self, heatmaps: Tensor, keypoints: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


def oracle(points: Tensor, heights: Tensor, aligned: bool = True) -> PoseEstimator:
    head = HEADS.build(
        {"type": "DeconvHead", "decoder": "dark", "aligned": aligned},
        in_features={"c5": chordate.FeatureSpec(8, 32)}, num_keypoints=3,
    )  # fmt: skip
    return PoseEstimator(META, SMALL, Oracle(points, heights, head), flip_test=False).eval()


@pytest.mark.parametrize("aligned", [True, False])
def test_keypoints_go_back_to_the_original_image(aligned):
    points = torch.tensor([[[60.0, 70.0], [100.0, 50.0], [90.5, 200.25]]])
    model = oracle(points, torch.tensor([[1.0, 0.5, 0.1]]), aligned)
    matrix = ((0.5, -0.2, 30.0), (0.2, 0.5, 12.0))
    crop = {"matrix": matrix, "score": 0.8, "box": (1.0, 2.0, 30.0, 40.0)}
    (pose,) = model.predict(batch_of(torch.zeros(1, 3, 256, 192, dtype=torch.uint8), **crop))
    expected = points[0] @ torch.tensor([[0.5, 0.2], [-0.2, 0.5]]) + torch.tensor([30.0, 12.0])
    assert isinstance(pose, Poses) and torch.allclose(pose.keypoints[0, :, :2], expected, atol=0.1)
    confidence = pose.keypoints[0, :, 2]
    assert confidence.tolist() == pytest.approx([1, 0.5, 0.1], rel=0.08)  # the value of the highest cell
    # The third keypoint has a confidence below 0.2 and does not count.
    assert pose.scores.item() == pytest.approx(0.8 * confidence[:2].mean().item())
    assert pose.boxes.tolist() == [[1, 2, 30, 40]] and pose.labels.tolist() == [0]


def test_a_pose_without_a_certain_keypoint_scores_0():
    model = oracle(torch.full((1, 3, 2), 80.0), torch.full((1, 3), 0.15))
    (pose,) = model.predict(batch_of(torch.zeros(1, 3, 256, 192, dtype=torch.uint8)))
    assert pose.scores.item() == 0 and len(pose.above(0.5)) == 0 and pose.describe() == "1 pose"


def test_predict_takes_an_image_as_one_object():
    """The image of 120×80 px (width × height) is resized to width 192 / 1.25 px, centered in a crop of 192×256 px."""
    model = oracle(torch.tensor([[[96.0, 128.0], [96.0 + 12.8, 128.0], [96.0, 128.0 - 12.8]]]), torch.ones(1, 3))
    model.pipeline = [{"type": "TopDownCrop", "size": (256, 192)}]
    (pose,) = chordate.predict(model, np.zeros((80, 120, 3), np.uint8))
    zoom = 1.25 * 120 / 192
    expected = torch.tensor([[60, 40], [60 + 12.8 * zoom, 40], [60, 40 - 12.8 * zoom]])
    assert torch.allclose(pose.keypoints[0, :, :2], expected, atol=0.05)
    (record,) = pose.to_records(META)
    assert record["class"] == "person" and record["box"] == [0, 0, 120, 80]
    assert list(record["keypoints"]) == ["head", "left_hand", "right_hand"]


def test_images_without_crops_are_scaled_back_to_the_original():
    model = oracle(torch.tensor([[[96.0, 128.0]] * 3]), torch.ones(1, 3))
    info = ImageInfo(0, "a.png", 512, 768)
    (pose,) = model.predict(Batch(torch.zeros(1, 3, 256, 192), torch.tensor([[256, 192]]), [info]))
    assert torch.allclose(pose.keypoints[0, :, :2], torch.tensor([384.0, 256.0]), atol=0.05)


def test_shifting_reduces_the_offset_of_cells_that_are_not_aligned():
    """With `aligned=False`, cell k is at pixel 4 k, so the Gaussian from the flipped image is 3/4 cell too far left;
    shifting it by one cell leaves an error of 1/4 cell."""
    x, width = 50.5, 192
    cells = torch.tensor([[(x - 0.5) / 4, 5.0], [(width - x - 0.5) / 4, 5.0]], dtype=torch.float64)
    plain, mirrored = gaussian_heatmaps(cells, (12, 48), 2.0)
    center = [(m.sum(0) * torch.arange(48)).sum() / m.sum() for m in (plain, mirrored.flip(-1))]
    assert (center[0] - center[1]).item() == pytest.approx(0.75, abs=0.01)
    shifted = shift_right(mirrored.flip(-1))
    assert ((shifted.sum(0) * torch.arange(48)).sum() / shifted.sum() - center[0]).abs() < 0.26
