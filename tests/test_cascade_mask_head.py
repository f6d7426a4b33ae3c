"""The mask heads of a cascade: averaged probabilities, and one loss per stage."""

import torch
from detection_toys import feature_maps, instances, pyramid, random_boxes

from chordate.heads import CascadeMaskHead
from chordate.structures import Detections, PaddedDetections, SampledRoIs

CLASSES = 3


def head_of(stages: int) -> CascadeMaskHead:
    torch.manual_seed(0)
    head = CascadeMaskHead(pyramid(), CLASSES, stages, stage={"convs": 1, "channels": 8})
    for stage in head.stages:
        torch.nn.init.normal_(stage.masks.weight, std=0.5)
    return head


def test_the_masks_are_the_mean_of_the_stages_probabilities():
    """As in MMDetection's CascadeRoIHead.predict_mask."""
    head, maps = head_of(3), feature_maps(128)
    boxes, labels, image = random_boxes(5, span=128.0), torch.tensor([0, 2, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1])
    expected = sum(stage(maps, boxes, image, labels).sigmoid() for stage in head.stages) / 3
    detections = [Detections(boxes[image == i], torch.ones(5)[image == i], labels[image == i]) for i in range(2)]
    masks = head.predict(maps, detections)
    assert [len(own) for own in masks] == [3, 2]
    torch.testing.assert_close(torch.cat(masks), expected)
    assert (head.stages[0](maps, boxes, image, labels).sigmoid() - expected).abs().max() > 0.1


def test_masks_in_fixed_slots_are_those_of_predict():
    head, maps = head_of(2), feature_maps(128)
    padded = PaddedDetections(random_boxes(2, 3, span=128.0), torch.ones(2, 3), torch.tensor([[1, 0, 2], [2, -1, -1]]))
    counts = (3, 1)
    detections = [
        Detections(padded.boxes[i, :n], padded.scores[i, :n], padded.labels[i, :n]) for i, n in enumerate(counts)
    ]
    masks = head.predict_padded(maps, padded)
    for i, own in enumerate(head.predict(maps, detections)):
        torch.testing.assert_close(masks[i, : counts[i]], own)


def test_each_stage_has_the_loss_of_a_mask_head_and_the_maps_get_the_mean_gradient():
    head = head_of(2)
    maps = {name: x.requires_grad_() for name, x in feature_maps(128, images=1).items()}
    targets = instances([[[10, 10, 50, 60], [60, 20, 120, 90]]], labels=[[2, 0]])
    targets.masks = (torch.rand(1, 8, 112, 112) > 0.5).to(torch.uint8)
    rois = SampledRoIs(
        boxes=torch.tensor([[[12.0, 8, 52, 58], [55, 25, 118, 95]]]),
        labels=torch.tensor([[2, 0]]),
        gt_index=torch.tensor([[0, 1]]),
        is_foreground=torch.ones(1, 2, dtype=torch.bool),
        valid=torch.ones(1, 2, dtype=torch.bool),
        sizes=torch.tensor([[128, 128]]),
        max_positives=2,
    )
    losses = head.loss(maps, rois, targets)
    alone = [stage.loss(maps, rois, targets)["mask"] for stage in head.stages]
    assert list(losses) == ["mask_0", "mask_1"] and alone[0] != alone[1]
    torch.testing.assert_close(list(losses.values()), alone)
    (gradient,) = torch.autograd.grad(sum(losses.values()), maps["p2"])
    (summed,) = torch.autograd.grad(sum(alone), maps["p2"])
    torch.testing.assert_close(gradient, summed / 2)
    assert summed.abs().max() > 0
