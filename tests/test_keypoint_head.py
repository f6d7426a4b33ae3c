"""The keypoint head: targets, loss and decoded keypoints equal torchvision's (which loops over RoIs)."""

import math

import pytest
import torch
from detection_toys import feature_maps, instances, pyramid
from torchvision.models.detection import roi_heads
from torchvision.models.detection.roi_heads import keypointrcnn_loss, keypoints_to_heatmap

from chordate.errors import ConfigError, DataError
from chordate.heads import KeypointHead
from chordate.ops import heatmaps
from chordate.ops.heatmaps import heatmaps_to_keypoints, keypoint_cells
from chordate.registry import HEADS
from chordate.structures import Detections, InstanceTargets, SampledRoIs

KEYPOINTS = 5
SIDE = 128


def head_of(**settings) -> KeypointHead:
    torch.manual_seed(0)
    return KeypointHead(pyramid(), KEYPOINTS, **{"convs": 1, "channels": 16, **settings})


def scene() -> tuple[SampledRoIs, InstanceTargets]:
    """Sampled RoIs (foreground and background) and targets of two images; one object has no labeled keypoints."""
    targets = instances([[[10, 10, 50, 60], [60, 20, 120, 90]], [[30, 20, 80, 90]]])
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(2, 8, KEYPOINTS, 2, generator=generator) * SIDE
    inside = (
        targets.boxes[:, :, None, :2] + places / SIDE * (targets.boxes[..., 2:] - targets.boxes[..., :2])[:, :, None]
    )
    visibility = torch.randint(0, 3, (2, 8, KEYPOINTS, 1), generator=generator).float()
    visibility[0, 1] = 0
    targets.keypoints = torch.cat((inside, visibility), -1)
    boxes = [
        [[12, 8, 52, 58], [55, 25, 118, 95], [20, 15, 48, 50], [0, 0, 30, 30]],
        [[35, 22, 84, 88], [90, 90, 120, 120], [0, 0, 9, 9], [0, 0, 0, 0]],
    ]
    rois = SampledRoIs(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.zeros(2, 4, dtype=torch.int64),
        gt_index=torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]]),
        is_foreground=torch.tensor([[True, True, True, False], [True, False, False, False]]),
        valid=torch.tensor([[True, True, True, True], [True, True, True, False]]),
        sizes=torch.tensor([[SIDE, SIDE]] * 2),
        max_positives=3,
    )
    return rois, targets


def test_keypoint_target_cells_are_torchvisions():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator, dtype=torch.float64) * 50
    boxes = torch.cat((corner, corner + 1 + torch.rand(200, 2, generator=generator, dtype=torch.float64) * 70), 1)
    places = corner[:, None] + torch.rand(200, 6, 2, generator=generator, dtype=torch.float64) * 60 - 5
    places[:, 0], places[:, 1] = boxes[:, :2], boxes[:, 2:]  # covers keypoints at two corners of the box
    visibility = torch.randint(0, 3, (200, 6, 1), generator=generator).double()
    keypoints = torch.cat((places, visibility), -1)
    cells, counts = keypoint_cells(keypoints, boxes, 56)
    wanted, valid = keypoints_to_heatmap(keypoints, boxes, 56)
    assert torch.equal(cells, wanted) and torch.equal(counts, valid.bool())
    assert 0.1 < counts.double().mean() < 0.9


def test_the_keypoint_loss_is_torchvisions():
    rois, targets = scene()
    head, maps = head_of(), feature_maps(SIDE)
    positive = [rois.boxes[i][rois.is_foreground[i]] for i in range(2)]
    image = torch.tensor([0, 0, 0, 1])
    logits = head(maps, torch.cat(positive), image)
    assert logits.shape == (4, KEYPOINTS, 56, 56)
    index = [rois.gt_index[i][rois.is_foreground[i]] for i in range(2)]
    wanted = keypointrcnn_loss(logits.contiguous(), positive, list(targets.keypoints), index)
    assert wanted > 1
    torch.testing.assert_close(head.loss(maps, rois, targets)["keypoint"], wanted)


def test_the_keypoint_loss_is_the_same_with_and_without_padding():
    """Compiled graphs and GPUs compute the loss with padding; eager mode on the CPU drops the padding first."""
    rois, targets = scene()
    head, maps = head_of(sampling_ratio=2), feature_maps(SIDE)
    compiled = torch.compile(head.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(maps, rois, targets), head.loss(maps, rois, targets))


def test_occluded_keypoints_contribute_to_the_loss_and_unlabeled_ones_do_not():
    rois, targets = scene()
    head, maps = head_of(), feature_maps(SIDE)
    targets.keypoints[..., 2] = 0
    targets.keypoints[0, 0, 3, 2] = 1
    head.loss(maps, rois, targets)["keypoint"].backward()
    learned = head.heatmaps.weight.grad.abs().sum((0, 2, 3)) > 0
    assert learned.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("what", ["keypoints", "regions"])
def test_without_labeled_keypoints_the_loss_is_zero_and_has_a_gradient(what):
    rois, targets = scene()
    if what == "keypoints":
        targets.keypoints[..., 2] = 0
    else:
        rois.is_foreground[:] = False
    head = head_of()
    loss = head.loss(feature_maps(SIDE), rois, targets)["keypoint"]
    loss.backward()
    assert loss == 0 and all(parameter.grad is not None for parameter in head.parameters())


def test_data_without_keypoints_is_a_one_line_error():
    rois, targets = scene()
    targets.keypoints = None
    with pytest.raises(
        DataError, match=r"KeypointHead: the data has no keypoints; set keypoints=True in train_data\.dataset"
    ):
        head_of().loss(feature_maps(SIDE), rois, targets)


def regions(count: int) -> torch.Tensor:
    """Random boxes `[count, 4]` with sides of 0.3 to 130 pixels."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 50
    side = 0.3 + torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2 * 130
    return torch.cat((corner, corner + side), 1)


@pytest.mark.parametrize("max_pixels", [0, 30_000, 10**9])
def test_keypoints_from_heatmaps_are_torchvisions(monkeypatch, max_pixels):
    """Heatmaps are resized to boxes (bicubic); a keypoint is the center of the argmax pixel, scored by its logit."""
    plain = heatmaps.group_by_size
    monkeypatch.setattr(heatmaps, "group_by_size", lambda pixels, _: plain(pixels, max_pixels))
    boxes = regions(40)
    maps = torch.randn(40, KEYPOINTS, 56, 56, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    places, scores = roi_heads.heatmaps_to_keypoints(maps, boxes)
    keypoints = heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(keypoints[..., :2], places[..., :2].double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(keypoints[..., 2], scores.double(), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("max_pixels", [0, 10_000, 10**9])
def test_heatmaps_of_similar_size_are_grouped_up_to_a_limit(max_pixels):
    pixels = (regions(40)[:, 2:] - regions(40)[:, :2]).clamp(min=1).ceil()
    groups = heatmaps.group_by_size(pixels, max_pixels)
    assert torch.cat([rows for rows, _, _ in groups]).sort().values.tolist() == list(range(40))
    assert {0: len(groups) == 40, 10_000: 1 < len(groups) < 40, 10**9: len(groups) == 1}[max_pixels]
    for rows, width, height in groups:
        assert (pixels[rows].amax(0) == torch.tensor([width, height])).all()
        assert len(rows) == 1 or len(rows) * width * height <= max_pixels
    assert heatmaps.group_by_size(pixels[:0], max_pixels) == []


def test_a_heatmaps_peak_is_located_to_half_a_cell_for_any_box_size():
    """Each box's heatmap has a smooth peak, located within half a cell or half a pixel, whichever is larger."""
    boxes = regions(40)
    generator = torch.Generator().manual_seed(3)
    top = 8 + torch.rand(40, 2, generator=generator, dtype=torch.float64) * 40  # in cells
    x, y = torch.arange(56) + 0.5, torch.arange(56) + 0.5
    hill = -((x - top[:, :1])[:, None] ** 2 + ((y - top[:, 1:]) ** 2)[:, :, None]) / 18
    keypoints = heatmaps_to_keypoints(hill[:, None], boxes)[:, 0]
    side = boxes[:, 2:] - boxes[:, :2]
    wanted = boxes[:, :2] + top / 56 * side
    assert ((keypoints[:, :2] - wanted).abs() <= torch.maximum(side / 56, torch.ones(())) / 2 + 1e-6).all()


def test_peaks_keep_their_precision_under_autocast():
    boxes, maps = regions(10).float(), torch.randn(10, KEYPOINTS, 56, 56)
    plain = heatmaps_to_keypoints(maps, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(heatmaps_to_keypoints(maps, boxes), plain)


def test_predictions_are_in_the_order_of_the_detections():
    head, maps = head_of().eval(), feature_maps(SIDE)
    boxes = torch.tensor([[10.0, 10, 60, 70], [5, 50, 100, 100], [30, 30, 90, 50]])
    detections = [
        Detections(image_boxes, torch.ones(len(image_boxes)), torch.zeros(len(image_boxes), dtype=torch.int64))
        for image_boxes in (boxes[:1], boxes[1:])
    ]
    first, second = head.predict(maps, detections)
    assert first.shape == (1, KEYPOINTS, 56, 56) and second.shape == (2, KEYPOINTS, 56, 56)
    torch.testing.assert_close(torch.cat((first, second)), head(maps, boxes, torch.tensor([0, 1, 1])))
    assert [len(k) for k in head.predict(maps, [detections[0], detections[0][:0]])] == [1, 0]
    assert [len(k) for k in head.predict(maps, [detections[0][:0], detections[0][:0]])] == [0, 0]


def test_keypoint_head_defaults_are_the_papers():
    """He et al. 2017, section 5: eight convolutions with 512 channels, and heatmaps of 56×56 cells."""
    with torch.device("meta"):
        head = KeypointHead(pyramid(256), 17)
    convs = [module for module in head.convs.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [512] * 8
    assert head.size == 56 and math.isclose(head.heatmaps.weight.shape[1], 17)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "KeypointHead: channels must be ≥ 1, got 0"),
        ({"levels": ["p9"]}, r'KeypointHead needs feature maps "p9", .*no "p9"'),
    ],
)
def test_an_invalid_setting_of_the_keypoint_head_is_a_config_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        HEADS.build({"type": "KeypointHead", **settings}, in_features=pyramid(), num_keypoints=KEYPOINTS)
