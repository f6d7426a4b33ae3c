"""The mask head: targets against supersampled polygons, loss against torchvision's, pasting against grid_sample."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detection_toys import feature_maps, instances, pyramid
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from torchvision.models.detection import roi_heads
from torchvision.ops import box_iou, roi_align

from chordate.data.polygons import Polygons, orient_clockwise
from chordate.data.rasterize import instance_bitmaps
from chordate.errors import DataError
from chordate.heads import MaskHead
from chordate.heads.mask import mask_targets
from chordate.ops import paste
from chordate.ops.paste import paste_masks
from chordate.structures import Detections, SampledRoIs

CLASSES = 3
SUPERSAMPLED = 8  # samples per side of a mask pixel, for the reference targets


def star(random: np.random.Generator) -> np.ndarray:
    """A star-shaped polygon of 5 to 24 corners within 200 x 200 pixels."""
    corners = random.integers(5, 25)
    angle = np.sort(random.uniform(0, 2 * np.pi, corners))
    radius = random.uniform(0.5, 1, corners) * random.uniform(8, 60)
    center = random.uniform(60, 140, 2)
    return (center + np.stack((np.cos(angle), np.sin(angle)), 1) * radius[:, None]).astype(np.float32)


def truth_of(outline: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The mask target in `box`: pixels that the polygon covers by at least half."""
    many = size * SUPERSAMPLED
    x = box[0] + (np.arange(many) + 0.5) / many * (box[2] - box[0])
    y = box[1] + (np.arange(many) + 0.5) / many * (box[3] - box[1])
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    inside = Outline(outline, closed=False).contains_points(points)
    return inside.reshape(size, SUPERSAMPLED, size, SUPERSAMPLED).mean((1, 3)) >= 0.5


def test_targets_are_the_polygons_cropped_to_the_rois():
    """Targets of jittered RoIs (IoU ≥ 0.5 with the object) have a mean IoU ≥ 0.99 with the reference targets."""
    random = np.random.default_rng(0)
    overlaps = []
    for _ in range(30):
        outline = star(random)
        low, high = outline.min(0), outline.max(0)
        box = torch.tensor([*low, *high])
        polygons = Polygons.from_rings([[orient_clockwise(outline)]], (200, 200))
        targets = instances([[box.tolist()]])
        targets.masks = torch.zeros(1, 8, 112, 112, dtype=torch.uint8)
        targets.masks[0, 0] = instance_bitmaps(polygons, box[None])[0]
        extent = (box[2:] - box[:2]).repeat(2)
        regions = box + extent * torch.from_numpy(random.uniform(-0.25, 0.25, (8, 4)).astype(np.float32))
        regions = regions[box_iou(regions, box[None])[:, 0] >= 0.5]
        zeros = torch.zeros(len(regions), dtype=torch.int64)
        for region, target in zip(
            regions, mask_targets(targets.masks, box.expand(len(regions), 4), zeros, zeros, regions, 28)
        ):
            truth = truth_of(outline, region.numpy(), 28)
            cells = target.numpy() > 0
            overlaps.append((cells & truth).sum() / max(1, (cells | truth).sum()))
    assert len(overlaps) > 100
    assert np.mean(overlaps) >= 0.99
    assert np.percentile(overlaps, 5) >= 0.97


def test_a_mask_target_is_empty_outside_its_object():
    targets = instances([[[10, 10, 20, 20]]])
    targets.masks = torch.ones(1, 8, 112, 112, dtype=torch.uint8)
    zero = torch.zeros(1, dtype=torch.int64)
    (target,) = mask_targets(targets.masks, targets.boxes[0, :1], zero, zero, torch.tensor([[0.0, 0, 30, 30]]), 30)
    assert target[10:20, 10:20].all() and target.sum() == 100


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=2), st.lists(st.floats(4, 100), min_size=2, max_size=2))
@settings(max_examples=30, deadline=None)
def test_targets_are_roi_align_with_very_many_samples(corner, extent):
    """The reference is torchvision's RoIAlign on the zero-padded bitmap; values near 0.5 may round either way."""
    (x, y), (width, height) = corner, extent
    frame, region = torch.tensor([[20.0, -10, 120, 40]]), torch.tensor([[x, y, x + width, y + height]])
    bitmap = F.interpolate(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).round(), 112)
    zero = torch.zeros(1, dtype=torch.int64)
    target = mask_targets(bitmap.to(torch.uint8), frame, zero, zero, region, 28)[0]
    cells = (region - frame[:, :2].repeat(1, 2)) / torch.tensor([100, 50, 100, 50]) * 112 + 400
    mean = roi_align(F.pad(bitmap, (400,) * 4), [cells], 28, sampling_ratio=32, aligned=True)[0, 0]
    sure = (mean - 0.5).abs() > 0.02
    assert torch.equal(target[sure], (mean >= 0.5).float()[sure])


def test_targets_keep_their_precision_under_autocast():
    bitmap = torch.rand(1, 1, 112, 112, generator=torch.Generator().manual_seed(0)).round().to(torch.uint8)
    zero, frame = torch.zeros(1, dtype=torch.int64), torch.tensor([[10.0, 10, 90, 70]])
    region = torch.tensor([[3.3, 14.2, 81.9, 75.1]])
    plain = mask_targets(bitmap, frame, zero, zero, region, 28)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mask_targets(bitmap, frame, zero, zero, region, 28), plain)


def rois_of(boxes: list[list[float]], labels: list[int], positive: int, index: list[int]) -> SampledRoIs:
    slots = len(boxes)
    is_positive = (torch.arange(slots) < positive)[None]
    return SampledRoIs(
        boxes=torch.tensor([boxes]),
        labels=torch.tensor([labels]),
        gt_index=torch.tensor([index]),
        is_foreground=is_positive,
        valid=torch.ones(1, slots, dtype=torch.bool),
        sizes=torch.tensor([[128, 128]]),
        max_positives=slots,
    )


def scene() -> tuple[SampledRoIs, object]:
    """Two positive RoIs, one background RoI, and two objects with random bitmaps."""
    torch.manual_seed(0)
    targets = instances([[[10, 10, 50, 60], [60, 20, 120, 90]]], labels=[[2, 0]])
    targets.masks = F.interpolate(torch.rand(1, 8, 7, 7).round(), 112).to(torch.uint8)
    rois = rois_of([[12, 8, 52, 58], [55, 25, 118, 95], [0, 0, 30, 30]], [2, 0, CLASSES], 2, [0, 1, 0])
    return rois, targets


def of_all_classes(head: MaskHead, maps: dict[str, torch.Tensor], boxes: torch.Tensor, image: torch.Tensor):
    return head.masks(head.upsample(head.convs(head.pooler(maps, boxes, image))).relu())


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_the_loss_is_torchvisions_on_the_same_targets(monkeypatch, class_agnostic):
    rois, targets = scene()
    head = MaskHead(pyramid(), CLASSES, channels=16, class_agnostic=class_agnostic)
    torch.nn.init.normal_(head.masks.bias)
    maps = feature_maps(128, images=1)
    positive, zeros = rois.boxes[0, :2], torch.zeros(2, dtype=torch.int64)
    truth = mask_targets(targets.masks, targets.boxes[0, :2], zeros, rois.gt_index[0, :2], positive, 28)
    monkeypatch.setattr(roi_heads, "project_masks_on_boxes", lambda *arguments: truth)
    labels = zeros if class_agnostic else targets.labels[0]
    wanted = roi_heads.maskrcnn_loss(
        of_all_classes(head, maps, positive, zeros), [positive], [truth], [labels], [rois.gt_index[0, :2]]
    )
    assert wanted > 0.1
    torch.testing.assert_close(head.loss(maps, rois, targets)["mask"], wanted)


def test_only_foreground_rois_and_their_class_contribute_to_the_loss():
    rois, targets = scene()
    head = MaskHead(pyramid(), CLASSES, channels=16)
    head.loss(feature_maps(128, images=1), rois, targets)["mask"].backward()
    learned = head.masks.weight.grad.abs().sum((1, 2, 3)) > 0
    assert learned.tolist() == [True, False, True]


def test_without_foreground_rois_the_loss_is_zero_and_still_has_a_gradient():
    rois, targets = scene()
    rois.is_foreground[:] = False
    head = MaskHead(pyramid(), CLASSES, channels=16)
    loss = head.loss(feature_maps(128, images=1), rois, targets)["mask"]
    loss.backward()
    assert loss == 0


def test_the_mask_loss_is_the_same_with_and_without_padding():
    """Compiled graphs and GPUs compute the loss with padding; the CPU drops the padding first."""
    rois, targets = scene()
    head = MaskHead(pyramid(), CLASSES, convs=1, channels=16, sampling_ratio=2)
    maps = feature_maps(128, images=1)
    compiled = torch.compile(head.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(maps, rois, targets)["mask"], head.loss(maps, rois, targets)["mask"])


@pytest.mark.parametrize("objects", [0, 1])
def test_padding_does_not_change_the_mask_loss(monkeypatch, objects):
    """GPUs do not skip the padding, where the target box may be empty, or much smaller than the RoI."""
    targets = instances([[[40, 40, 42, 42]][:objects]])
    targets.masks = torch.ones(1, 8, 112, 112, dtype=torch.uint8)
    rois = rois_of([[39, 40, 42, 42], [0, 0, 128, 128]], [0, CLASSES], objects, [0, 0])
    head, maps = MaskHead(pyramid(), CLASSES, channels=8), feature_maps(128, images=1)
    compact = head.loss(maps, rois, targets)["mask"]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(head.loss(maps, rois, targets)["mask"], compact)
    assert compact.isfinite() and (compact > 0) == (objects > 0)


def test_the_mask_of_a_detection_is_predicted_for_its_class():
    head = MaskHead(pyramid(), CLASSES, channels=16)
    torch.nn.init.normal_(head.masks.weight)
    torch.nn.init.normal_(head.masks.bias)
    maps = feature_maps(128)
    boxes = torch.tensor([[10.0, 10, 60, 70], [5, 50, 100, 100], [30, 30, 90, 50]])
    labels, image = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 1])
    detections = [
        Detections(boxes[image == i], torch.ones(int((image == i).sum())), labels[image == i]) for i in (0, 1)
    ]
    masks = torch.cat(head.predict(maps, detections))
    logits = of_all_classes(head, maps, boxes, image)
    torch.testing.assert_close(masks, torch.stack([logits[i, labels[i]] for i in range(3)]).sigmoid())
    assert [len(m) for m in head.predict(maps, [detections[0], detections[0][:0]])] == [1, 0]


def test_class_agnostic_masks_serve_every_class():
    head = MaskHead(pyramid(), CLASSES, channels=16, class_agnostic=True)
    torch.nn.init.normal_(head.masks.weight)
    regions = torch.randn(2, 16, 14, 14)
    only = head.masks(head.upsample(head.convs(regions)).relu())[:, 0]
    torch.testing.assert_close(head.logits(regions, torch.tensor([0, 7])), only)


@settings(max_examples=40, deadline=None)
@given(
    box=st.tuples(st.floats(-8, 20), st.floats(-8, 20), st.floats(1, 40), st.floats(1, 40)),
    seed=st.integers(0, 1000),
)
def test_pasting_is_bilinear_sampling_at_pixel_centers(box, seed):
    """The reference is torch's grid_sample with zero padding and align_corners=False."""
    height, width = 32, 40
    mask = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x1, y1, w, h = box
    frame = torch.tensor([[x1, y1, x1 + w, y1 + h]], dtype=torch.float64)
    x = ((torch.arange(width) + 0.5 - x1) / w * 2 - 1).expand(height, width)
    y = ((torch.arange(height) + 0.5 - y1) / h * 2 - 1)[:, None].expand(height, width)
    grid = torch.stack((x, y), -1)[None].double()
    wanted = F.grid_sample(mask[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0]
    pasted = paste_masks(mask, frame, height, width)[0]
    sure = (wanted - 0.5).abs() > 1e-9
    assert torch.equal(pasted[sure], (wanted >= 0.5)[sure])


def test_a_full_mask_fills_its_box_to_the_pixel():
    full = torch.ones(1, 28, 28)
    pasted = paste_masks(full, torch.tensor([[3.0, 4, 23, 16]]), 30, 40)[0]
    wanted = torch.zeros(30, 40, dtype=torch.bool)
    wanted[4:16, 3:23] = True
    assert torch.equal(pasted, wanted)


def test_pasting_and_flipping_can_be_done_in_either_order():
    masks = torch.rand(3, 28, 28, dtype=torch.float64)
    boxes = torch.tensor([[3.2, 4.7, 25.1, 16], [0, 0, 40, 30], [-5, 2, 12, 44]], dtype=torch.float64)
    flipped = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([40, 0, 40, 0])
    assert torch.equal(paste_masks(masks.flip(2), flipped, 30, 40), paste_masks(masks, boxes, 30, 40).flip(2))


def test_pasting_a_disc_matches_torchvision_up_to_its_rounding_of_boxes():
    """Torchvision rounds boxes to whole pixels first, which shifts the disc by about half a pixel."""
    cell = (torch.arange(28) + 0.5) / 28 - 0.5
    disc = (1.2 - 10 * (cell**2 + cell[:, None] ** 2)).clamp(0, 1)
    boxes = torch.tensor([[10.3, 12.7, 90.1, 80.5], [-20.2, 5.4, 60.9, 99.2], [40.5, 30.2, 119.7, 130.9]])
    theirs = roi_heads.paste_masks_in_image(disc.expand(3, 1, 28, 28), boxes, (100, 120))[:, 0] >= 0.5
    pasted = paste_masks(disc.expand(3, 28, 28), boxes, 100, 120)
    assert ((pasted & theirs).sum((1, 2)) / (pasted | theirs).sum((1, 2)) > 0.96).all()


@pytest.mark.parametrize("chunk", [1, 2 * 40 * 40, 2**24])
def test_windows_and_chunks_paste_the_same(monkeypatch, chunk):
    """CPUs paste each mask into its box's window, GPUs many masks at once; boxes may extend beyond the image."""
    monkeypatch.setattr(paste, "CHUNK", chunk)
    masks = torch.rand(6, 14, 14, dtype=torch.float64)
    boxes = torch.rand(6, 4, dtype=torch.float64) * 10 + torch.tensor([0, 0, 20, 20])
    boxes[3:] = torch.tensor([[33.2, 9.1, 37, 12.4], [-30, -20, -5, -4], [-9, 30, 70, 90]])
    windows = paste.paste_masks(masks, boxes, 40, 40)
    chunks = torch.zeros_like(windows)
    paste.paste_chunks(masks, boxes, 0.5, chunks)
    assert torch.equal(windows, chunks) and windows[5].any() and not windows[4].any()
    assert paste.paste_masks(masks[:0], boxes[:0], 40, 40).shape == (0, 40, 40)


def test_pasting_keeps_its_precision_under_autocast():
    """`predict` uses autocast where the hardware supports bfloat16."""
    masks, boxes = torch.rand(5, 28, 28), torch.rand(5, 4) * 10 + torch.tensor([0, 0, 60, 60])
    plain = paste.paste_masks(masks, boxes, 80, 80)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(paste.paste_masks(masks, boxes, 80, 80), plain)


def test_data_without_masks_is_a_one_line_error():
    rois, targets = scene()
    targets.masks = None
    with pytest.raises(DataError, match=r"MaskHead: the data has no masks; set masks=True in train_data\.dataset"):
        MaskHead(pyramid(), CLASSES, channels=16).loss(feature_maps(128, images=1), rois, targets)
