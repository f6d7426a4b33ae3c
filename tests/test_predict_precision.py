"""Prediction with half-precision weights; masks and keypoints are computed with float32 coordinates."""

import pytest
import torch

import chordate
from chordate.ops.heatmaps import heatmaps_to_keypoints
from chordate.ops.paste import paste_masks

HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALF)
def test_a_half_precision_detector_predicts_about_the_same_as_in_float32(dtype):
    torch.manual_seed(0)
    model = chordate.build_model("mask-rcnn_r18_fpn_demo_shapes", num_classes=5, pretrained=False)
    with torch.no_grad():
        model.box.cls_score.weight.normal_(0, 0.3)
        model.box.cls_score.bias[-1] = -10  # lowers the background logit, so that there are detections
    image = torch.randint(0, 256, (3, 128, 160), dtype=torch.uint8)
    (expected,) = chordate.predict(model, image)
    (detections,) = chordate.predict(model.to(dtype), image)
    assert detections.masks.shape == (len(detections), 128, 160) and len(expected)
    assert detections.scores.max() == pytest.approx(float(expected.scores.max()), abs=0.1)


@pytest.mark.parametrize("dtype", HALF)
def test_a_half_precision_classifier_predicts_about_the_same_as_in_float32(dtype):
    torch.manual_seed(0)
    model = chordate.build_model({"type": "ImageClassifier", "backbone": "resnet20_cifar"}, num_classes=5)
    model.pipeline = []  # the default pipeline would resize the image to 800×800 pixels
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    (expected,) = chordate.predict(model, image)
    (scores,) = chordate.predict(model.to(dtype), image)
    torch.testing.assert_close(scores.scores, expected.scores, atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_masks_and_heatmaps_are_placed_as_precisely_as_in_float32(dtype):
    """A custom head may output half precision, which cannot represent coordinates far from the origin exactly."""
    maps = torch.rand(2, 1, 8, 8).to(dtype)
    boxes = torch.tensor([[1900.3, 20.7, 1980.1, 90.2], [10.4, 5.2, 33.3, 44.4]])
    assert torch.equal(paste_masks(maps[:, 0], boxes, 100, 2000), paste_masks(maps[:, 0].float(), boxes, 100, 2000))
    assert torch.equal(heatmaps_to_keypoints(maps, boxes), heatmaps_to_keypoints(maps.float(), boxes))
