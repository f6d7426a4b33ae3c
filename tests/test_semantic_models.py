"""Semantic segmentation models: outputs equal torchvision's, losses equal their formulas; sliding windows, resizing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from backbone_referee import slow

import chordate
from chordate.contracts import FeatureSpec
from chordate.data.voc_semantic import VOC_SEMANTIC_CLASSES
from chordate.errors import ConfigError, DataError
from chordate.models.sliding_window import SlidingWindow
from chordate.ops.argmax_resize import argmax_resize
from chordate.ops.pixel_losses import CrossEntropy, Dice, PixelFocal
from chordate.registry import FORMATS, HEADS, LOSSES
from chordate.structures import IGNORED, Batch, DatasetMeta, ImageInfo, SemanticTargets
from chordate.weights.class_rows import RowMatcher

META = DatasetMeta(tuple(f"class {number}" for number in range(7)))
RESNET = {"type": "resnet50", "out": ["c4", "c5"], "output_stride": 8}
THIN = {**RESNET, "type": "resnet18", "base_channels": 8}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
TORCHVISION = {"deeplabv3": {"type": "DeepLabV3Head", "rates": (12, 24, 36)}, "fcn": {"type": "FCNHead"}}


def make_batch(images: torch.Tensor, labels: torch.Tensor | None = None) -> Batch:
    n, height, width = len(images), *images.shape[-2:]
    infos = [ImageInfo(number, f"{number}.png", height, width) for number in range(n)]
    targets = None if labels is None else SemanticTargets(labels.short())
    return Batch(images, torch.tensor([[height, width]] * n), infos, targets)


def segmenter(head: dict, **settings) -> chordate.Model:
    model = {"type": "SemanticSegmenter", "backbone": THIN, "head": head, "preprocess": PLAIN, **settings}
    return chordate.build_model({"model": model}, meta=META, pretrained=False)


@pytest.fixture(
    scope="module",
    params=["deeplabv3_resnet50", "fcn_resnet50", *slow("deeplabv3_resnet101"), *slow("fcn_resnet101")],
)
def pair(request):
    """A torchvision model with random weights and statistics, and our model with these weights, both in float64."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.segmentation, request.param)(
        weights=None, weights_backbone=None, num_classes=7, aux_loss=True
    )
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.2, 0.4)
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    auxiliary = {"auxiliary": {"type": "FCNHead", "level": "c4"}, "auxiliary_weight": 0.5}
    head, backbone = request.param.split("_")
    ours = segmenter(TORCHVISION[head], backbone={**RESNET, "type": backbone}, **auxiliary)
    for module in ours.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
            module.p = 0.0
    report = chordate.load_checkpoint(ours, theirs.state_dict())
    assert not report.missing and not report.skipped and report.format == "torchvision"
    return theirs.double(), ours.double()


def test_logits_equal_torchvisions(pair):
    theirs, ours = pair[0].eval(), pair[1].eval()
    images = torch.rand(1, 3, 33, 129, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(images)
        maps = ours.backbone(images)
        for head, name in ((ours.head, "out"), (ours.auxiliary, "aux")):
            logits = F.interpolate(head(maps), images.shape[-2:], mode="bilinear", align_corners=False)
            torch.testing.assert_close(logits, expected[name], atol=1e-4, rtol=0)
            assert expected[name].std() > 1e-2


def test_losses_with_the_auxiliary_head_equal_those_of_torchvisions_reference_training(pair):
    """torchvision's references/segmentation/train.py: cross-entropy, plus 0.5 times that of the auxiliary head."""
    theirs, ours = pair[0].train(), pair[1].train()
    images = torch.rand(2, 3, 33, 65, dtype=torch.float64)
    labels = torch.randint(0, 7, (2, 33, 65))
    labels[:, :20] = 255
    outputs = theirs(images)
    expected = [F.cross_entropy(outputs[name], labels, ignore_index=255) for name in ("out", "aux")]
    losses = ours.loss(make_batch(images, labels.where(labels != 255, IGNORED)))
    torch.testing.assert_close(losses["semantic"], expected[0])
    torch.testing.assert_close(losses["auxiliary_semantic"], 0.5 * expected[1])


def test_torchvisions_voc_classes_come_with_its_format():
    state = {"classifier.4.weight": torch.zeros(21, 256, 1, 1)}
    meta = FORMATS.get("TorchvisionSegmentation")().meta(state, torch.nn.Identity())
    assert meta.classes == VOC_SEMANTIC_CLASSES


def test_fine_tuning_torchvisions_voc_weights_keeps_the_background():
    """Rows of classes with the same name are copied: background is row 0 of VOC's classes, person row 15."""
    weight = torch.randn(21, 8, 1, 1)
    meta = FORMATS.get("TorchvisionSegmentation")().meta({"classifier.4.weight": weight}, torch.nn.Identity())
    model = {"type": "SemanticSegmenter", "backbone": {"type": "resnet18", "base_channels": 8, "out": ["c5"]}}
    model |= {"head": {"type": "FCNHead", "channels": 8}}
    ours = chordate.build_model({"model": model}, meta=DatasetMeta(("person", "tree", "background")), pretrained=False)
    before = ours.head.logits.weight.detach().clone()
    adapted = RowMatcher(ours, meta).adapt("head.logits.weight", weight, before)
    assert torch.equal(adapted.tensor, torch.stack([weight[15], before[1], weight[0]]))


def test_each_loss_of_a_head_has_its_own_name():
    losses = [{"type": "CrossEntropy"}, {"type": "Dice"}, {"type": "Dice", "loss_weight": 0.5}]
    specs = {"c5": FeatureSpec(8, 32)}
    head = HEADS.build({"type": "FCNHead", "losses": losses}, facts=META.facts(), in_features=specs)
    logits, labels = torch.randn(2, 7, 8, 8), torch.randint(0, 7, (2, 8, 8))
    expected = {
        "semantic_CrossEntropy": F.cross_entropy(logits, labels),
        "semantic_Dice_1": Dice()(logits, labels),
        "semantic_Dice_2": 0.5 * Dice()(logits, labels),
    }
    torch.testing.assert_close(head.loss(logits, labels.short()), expected)


HEAD_NAMES = ["FCNHead", "DeepLabV2Head", "DeepLabV3Head", "DeepLabV3PlusHead", "PSPHead", "SemanticFPNHead"]


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_every_head_predicts_each_class_at_each_cell(head):
    specs = {f"c{number}": FeatureSpec(8 * number, 2**number) for number in (2, 3, 4, 5)}
    built = HEADS.build({"type": head}, facts=META.facts(), in_features=specs)
    maps = {name: torch.randn(2, spec.channels, 128 // spec.stride, 192 // spec.stride) for name, spec in specs.items()}
    stride = {"DeepLabV3PlusHead": 4, "SemanticFPNHead": 4}.get(head, 32)
    logits = built.train()(maps)
    assert logits.shape == (2, 7, 128 // stride, 192 // stride)
    loss = sum(built.loss(logits, torch.randint(-1, 7, (2, 128, 192)).short()).values())
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in built.parameters())


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36]), (32, [3, 6, 9])])
def test_atrous_rates_follow_the_output_stride(stride, rates):
    """Chen et al. 2017, section 3.3: the rates are doubled at output stride 8."""
    head = HEADS.build({"type": "DeepLabV3Head"}, facts=META.facts(), in_features={"c5": FeatureSpec(8, stride)})
    assert [branch[0].dilation[0] for branch in head.aspp.branches[1:]] == rates


def test_deeplabv2_sums_atrous_convolutions_with_the_rates_of_aspp_l():
    """Chen et al. 2018, DeepLab, figure 7: the rates are 6, 12, 18 and 24."""
    specs = {"c5": FeatureSpec(8, 8)}
    head = HEADS.build({"type": "DeepLabV2Head"}, facts=META.facts(), in_features=specs).eval()
    x = torch.randn(2, 8, 30, 20)
    expected = sum(
        F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate)
        for conv, rate in zip(head.logits, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(head({"c5": x}), expected)


@pytest.mark.parametrize(("names", "low_level"), [(["c5"], None), (["c2", "c5"], "c5")])
def test_deeplab_v3_plus_needs_two_feature_maps(names, low_level):
    specs = {name: FeatureSpec(8, 2 ** int(name[1])) for name in names}
    with pytest.raises(ConfigError, match='level "c5" and low_level "c5" are the same feature map') as caught:
        HEADS.build({"type": "DeepLabV3PlusHead", "in_features": specs, "num_classes": 3, "low_level": low_level})
    assert "\n" not in str(caught.value)


def random_logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    labels = torch.randint(0, 5, (2, 9, 11))
    labels[torch.rand(labels.shape) < 0.3] = IGNORED
    return torch.randn(2, 5, 9, 11, dtype=torch.float64, requires_grad=True), labels.short()


def test_cross_entropy_is_torchs_with_class_weights_and_ignored_pixels():
    logits, labels = random_logits()
    weights = [0.5, 1.0, 2.0, 3.0, 0.1]
    expected = F.cross_entropy(logits, labels.long(), torch.tensor(weights).double(), ignore_index=IGNORED)
    torch.testing.assert_close(CrossEntropy(class_weights=weights).double()(logits, labels), expected)


def test_hard_example_mining_keeps_the_pixels_of_the_largest_loss():
    """The reference sorts the losses of the labeled pixels, and averages the largest quarter."""
    logits, labels = random_logits()
    losses = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="none")[labels != IGNORED]
    kept = losses.sort(descending=True).values[: -(-len(losses) // 4)]
    torch.testing.assert_close(CrossEntropy(hard_fraction=0.25)(logits, labels), kept.mean())


def deeplab_ce(logits, labels, fraction):
    """Detectron2's DeepLabCE: all pixels count, those without a label with a loss of 0."""
    losses = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="none").reshape(-1)
    return torch.topk(losses, int(fraction * losses.numel())).values.mean()


@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.2])
def test_ignored_pixels_can_count_as_in_detectron2s_hard_pixel_mining(fraction):
    logits, labels = random_logits()
    found = CrossEntropy(hard_fraction=fraction, count_ignored=True)(logits, labels)
    torch.testing.assert_close(found, deeplab_ce(logits, labels, fraction))
    (mine,) = torch.autograd.grad(found, logits)
    (theirs,) = torch.autograd.grad(deeplab_ce(logits, labels, fraction), logits)
    torch.testing.assert_close(mine, theirs)
    assert not torch.isclose(found, CrossEntropy(hard_fraction=fraction)(logits, labels))


def test_dice_is_the_formula_of_the_paper():
    logits, labels = random_logits()
    probabilities, labeled = logits.softmax(1), labels != IGNORED
    terms = []
    for number in range(5):
        p, t = probabilities[:, number][labeled], (labels[labeled] == number).double()
        terms.append(1 - (2 * (p * t).sum() + 1) / ((p**2).sum() + (t**2).sum() + 1))
    torch.testing.assert_close(Dice()(logits, labels), torch.stack(terms).mean())


def test_focal_loss_weighs_pixels_by_how_wrong_they_are():
    logits, labels = random_logits()
    p = logits.softmax(1).gather(1, labels.long().clamp(min=0)[:, None])[:, 0][labels != IGNORED]
    torch.testing.assert_close(PixelFocal(gamma=2)(logits, labels), (-((1 - p) ** 2) * p.log()).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_focal_loss_has_finite_gradients_where_the_probability_is_1(gamma):
    """The probability of the first pixel is rounded to 1; the gradients of the other pixels equal the formula's."""
    logits = torch.tensor([[200.0, 0.0, -3.0], [0.0, 0.0, 3.0]])[None, :, None].requires_grad_()
    labels = torch.tensor([[[0, 1, 0]]])
    PixelFocal(gamma=gamma)(logits, labels).backward()
    assert (logits.grad[..., 0] == 0).all() and torch.isfinite(logits.grad).all()
    exact = torch.tensor([[0.0, -3.0], [0.0, 3.0]], dtype=torch.float64, requires_grad=True)
    p = exact.softmax(0)[[1, 0], [0, 1]]
    (((1 - p) ** gamma * -p.log()).sum() / 3).backward()
    torch.testing.assert_close(logits.grad[0, :, 0, 1:].double(), exact.grad, rtol=1e-5, atol=0)


def test_a_hard_fraction_of_0_is_refused():
    with pytest.raises(ConfigError, match="hard_fraction must be > 0 and ≤ 1, got 0"):
        LOSSES.build({"type": "CrossEntropy", "hard_fraction": 0})


@pytest.mark.parametrize("count", [2, 8])
def test_class_weights_for_another_number_of_classes_are_refused(count):
    losses = [{"type": "CrossEntropy", "class_weights": [1.0] * count}]
    with pytest.raises(ConfigError, match=f"class_weights has {count} entries for 7 classes; give one per class"):
        segmenter({"type": "FCNHead", "losses": losses})


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(), CrossEntropy(hard_fraction=0.5), CrossEntropy(count_ignored=True), Dice(), PixelFocal(),
        PixelFocal(0.5),
    ],
    ids=repr,
)  # fmt: skip
def test_a_batch_without_labeled_pixels_gives_a_finite_loss_and_no_gradient(loss):
    logits, labels = random_logits()
    value = loss(logits, torch.full_like(labels, IGNORED))
    value.backward()
    assert torch.isfinite(value) and (logits.grad == 0).all()


@pytest.mark.parametrize("size", [(33, 41), (5, 64), (200, 7)])
def test_labels_are_the_argmax_of_bilinearly_resized_logits(size, monkeypatch):
    monkeypatch.setattr("chordate.ops.argmax_resize.CHUNK", 600)  # small enough for several chunks
    logits = torch.randn(6, 9, 13, dtype=torch.float64)
    resized = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    assert torch.equal(argmax_resize(logits, size, (9.0, 13.0)), resized.argmax(0).short())


def test_a_rounded_number_of_used_cells_gives_the_exact_size():
    logits = torch.randn(2, 15, 15)
    for size in range(40, 90):
        used = 15 / size * size  # 15 up to rounding
        assert argmax_resize(logits, (size, size), (used, used)).shape == (size, size)


def test_padding_of_a_batch_changes_labels_at_most_half_a_cell_away():
    """The image covers 6×8 of the 9×13 cells of the logits. At pixels that are at least half a cell away from the
    padding, resizing all cells gives the same classes as resizing only these cells."""
    logits = torch.randn(6, 9, 13, dtype=torch.float64)
    expected = F.interpolate(logits[None, :, :6, :8], (60, 80), mode="bilinear", align_corners=False)[0].argmax(0)
    labels = argmax_resize(logits, (60, 80), (6.0, 8.0))
    assert torch.equal(labels[:-5, :-5], expected[:-5, :-5].short())


class Cells(torch.nn.Module):
    """A model whose logits at a pixel depend only on that pixel, so they are equal in all windows."""

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        return torch.cat([images, -images], dim=1)


@pytest.mark.parametrize("size", [(50, 70), (20, 90), (33, 16)])
def test_windows_that_agree_give_the_labels_of_the_whole_image(size):
    images = torch.randn(1, 3, *size)
    (labels,) = SlidingWindow((32, 40), (20, 30)).predict(Cells(), make_batch(images))
    assert torch.equal(labels, Cells()(images, torch.empty(0))[0].argmax(0).short())


def test_logits_are_averaged_where_windows_overlap():
    """The reference adds the logits of all windows, and divides by the number of windows that cover each pixel."""
    torch.manual_seed(1)
    images, conv = torch.rand(1, 3, 70, 90), torch.nn.Conv2d(3, 5, 9, padding=4)

    def logits(windows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        return conv(windows)

    total, count = torch.zeros(5, 70, 90), torch.zeros(70, 90)
    for top in (0, 20, 38):
        for left in (0, 30, 50):
            total[:, top : top + 32, left : left + 40] += conv(images[:, :, top : top + 32, left : left + 40])[0]
            count[top : top + 32, left : left + 40] += 1
    (labels,) = SlidingWindow((32, 40), (20, 30)).predict(logits, make_batch(images))
    assert torch.equal(labels, (total / count).argmax(0).short())


@pytest.mark.parametrize("original", [(105, 135), (140, 180), (33, 200), (70, 90)])
@pytest.mark.parametrize("strides", [(20, 30), (9, 13), (32, 40)])
def test_averaged_logits_are_interpolated_at_the_pixels_of_the_original_image(original, strides, monkeypatch):
    """The reference interpolates the logits of each window at each pixel, and sums them over the windows that cover the
    pixel. The sum has the same argmax as the mean."""
    monkeypatch.setattr("chordate.models.sliding_window.CHUNK", 3000)  # small enough for several chunks
    torch.manual_seed(2)
    images, conv = torch.rand(1, 3, 70, 90, dtype=torch.float64), torch.nn.Conv2d(3, 5, 9, 4, 4).double()
    size, total = (32, 40), torch.zeros(5, *original, dtype=torch.float64)
    starts = [[*range(0, side - own, stride), side - own] for side, own, stride in zip((70, 90), size, strides)]
    centers = [(torch.arange(n).double() + 0.5) * side / n for n, side in zip(original, (70, 90))]
    for top in starts[0]:
        for left in starts[1]:
            cells = conv(images[..., top : top + 32, left : left + 40])[0]
            weights = []
            for position, start, own, n in zip(centers, (top, left), size, cells.shape[1:]):
                cell = ((position - start) * n / own - 0.5).clamp(0, n - 1)
                inside = (position >= start) & (position < start + own)
                weights.append((1 - (cell[:, None] - torch.arange(n)).abs()).clamp(min=0) * inside[:, None])
            total += torch.einsum("khw,yh,xw->kyx", cells, *weights)
    batch = make_batch(images)
    batch.infos[0] = ImageInfo(0, "a.png", *original)
    (labels,) = SlidingWindow(size, strides).predict(lambda windows, sizes: conv(windows), batch)
    best = total.topk(2, dim=0).values
    assert ((labels == total.argmax(0)) | (best[0] - best[1] < 1e-9)).all() and len(labels.unique()) >= 4


def test_a_window_stride_that_leaves_pixels_out_is_refused():
    with pytest.raises(ConfigError, match=r"window: .*must be ≤ size .* got stride \[40, 30\] and size \[32, 40\]"):
        segmenter({"type": "FCNHead"}, window={"size": (32, 40), "stride": (40, 30)})


def test_predictions_have_the_images_own_size():
    model = segmenter({"type": "FCNHead"}).eval()
    batch = make_batch(torch.rand(2, 3, 64, 96) * 255)
    batch.infos[1] = ImageInfo(1, "b.png", 31, 200)
    first, second = model.predict(batch)
    assert first.labels.shape == (64, 96) and second.labels.shape == (31, 200)
    assert sum(share for _, share in second.fractions()) == pytest.approx(1)


def test_targets_of_another_task_are_refused():
    with pytest.raises(DataError, match="SemanticSegmenter trains on SemanticTargets"):
        segmenter({"type": "FCNHead"}).loss(Batch(torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]]), [], object()))


def test_an_fcn_head_with_dilation_and_concatenation():
    """MMSegmentation's FCN: dilated convolutions; their output is concatenated with the input, and convolved again."""
    head = HEADS.build(
        {"type": "FCNHead", "convs": 2, "channels": 6, "dilation": 3, "concatenate": True},
        in_features={"c5": FeatureSpec(4, 32)},
        num_classes=2,
    ).eval()
    x = y = torch.randn(1, 4, 9, 9)
    for conv, _, _ in head.convs:  # untrained norms only divide by √(1 + eps)
        y = F.conv2d(y, conv.weight, padding=3, dilation=3).div((1 + 1e-5) ** 0.5).relu()
    z = F.conv2d(torch.cat([x, y], dim=1), head.concatenated[0].weight, padding=1).div((1 + 1e-5) ** 0.5).relu()
    torch.testing.assert_close(head({"c5": x}), head.logits(z))
