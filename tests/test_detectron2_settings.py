"""The detector configs have the hyperparameters of Detectron2's configs (configs/Base-*.yaml and defaults.py)."""

import pytest
import torch

import chordate
from chordate.config import load_config
from chordate.published import PUBLISHED

ONE_MAP = {
    "rpn.pre_nms_topk": (12000, 6000),  # RPN.PRE_NMS_TOPK_TRAIN, _TEST
    "rpn.post_nms_topk": (2000, 1000),
    "rpn.anchors.per_cell": 15,  # ANCHOR_GENERATOR.SIZES [[32, 64, 128, 256, 512]] with three aspect ratios
    "box.score_threshold": 0.05,
}
PYRAMID = {
    "rpn.pre_nms_topk": (2000, 1000),
    "rpn.post_nms_topk": (1000, 1000),
    "rpn.batch_size_per_image": 256,
    "rpn.nms_threshold": 0.7,
    "box.pooler.resolution": 7,
    "box.batch_size_per_image": 512,
    "box.positive_fraction": 0.25,
    "box.box_loss.beta": 0.0,
    "box.nms_threshold": 0.5,
    "box.detections_per_image": 100,
}
MASK = {"mask.pooler.resolution": 14, "mask.masks.in_channels": 256, "mask.convs": 4}
KEYPOINT = {
    **PYRAMID,
    "rpn.post_nms_topk": (1500, 1000),
    "box.box_loss.beta": 0.5,
    "keypoint.pooler.resolution": 14,
    "keypoint.size": 56,
    "keypoint.convs": 8,  # ROI_KEYPOINT_HEAD.CONV_DIMS: eight layers of 512 channels
    "keypoint.heatmaps.in_channels": 512,
}
CASCADE = {"rpn.post_nms_topk": (2000, 1000), "box.stages": 3}
RETINA = {
    "head.matcher.positive": 0.5,  # RETINANET.IOU_THRESHOLDS
    "head.matcher.negative": 0.4,
    "head.box_loss.beta": 0.0,  # RETINANET.SMOOTH_L1_LOSS_BETA
    "head.class_tower": 4,
    "head.topk": 1000,
    "head.anchors.per_cell": 9,
}
SETTINGS = {
    "faster-rcnn_r50_fpn_1x_coco": PYRAMID,
    "faster-rcnn_r50_c4_1x_coco": {**ONE_MAP, "box.pooler.resolution": 14},
    "faster-rcnn_r50_dc5_1x_coco": {**ONE_MAP, "box.pooler.resolution": 7},
    **{f"mask-rcnn_{b}_fpn_{s}_coco": {**PYRAMID, **MASK} for b in ("r50", "r101", "x101-64x4d") for s in ("1x", "3x")},
    "mask-rcnn_r50_c4_1x_coco": {**ONE_MAP, "mask.convs": 0, "mask.masks.in_channels": 256},
    "mask-rcnn_r50_dc5_1x_coco": {**ONE_MAP, **MASK},
    "cascade-rcnn_r50_fpn_1x_coco": CASCADE,
    "cascade-mask-rcnn_r50_fpn_1x_coco": {**CASCADE, **MASK},
    "keypoint-rcnn_r50_fpn_1x_coco": KEYPOINT,
    "retinanet_r50_fpn_1x_coco": RETINA,
}


def read(model, path: str):
    for name in path.split("."):
        model = getattr(model, name)
    return len(model) if isinstance(model, torch.nn.Sequential | torch.nn.ModuleList) else model


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_equal_detectron2s(name):
    with torch.device("meta"):
        model = chordate.build_model(name, pretrained=False)
    found = {path: read(model, path) for path in SETTINGS[name]}
    assert {path: tuple(v) if isinstance(v, list) else v for path, v in found.items()} == SETTINGS[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_learning_rate_is_002_for_16_images_and_001_for_retinanet(name):
    """Detectron2's SOLVER.BASE_LR and SOLVER.IMS_PER_BATCH."""
    optimizer = load_config(name).optimizer
    assert (optimizer.lr, optimizer.base_batch_size) == (0.01 if name.startswith("retinanet") else 0.02, 16)


def test_the_iou_thresholds_of_the_cascade_increase_from_stage_to_stage():
    """Detectron2's ROI_BOX_CASCADE_HEAD.IOUS and BBOX_REG_WEIGHTS; box regression is class-agnostic."""
    with torch.device("meta"):
        stages = chordate.build_model("cascade-rcnn_r50_fpn_1x_coco", pretrained=False).box.stages
    assert [stage.matcher.positive for stage in stages] == [0.5, 0.6, 0.7]
    weights = [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert [tuple(stage.box_weights) for stage in stages] == weights
    assert all(stage.bbox_pred.out_features == 4 for stage in stages)


DETECTRON2 = [name for name, row in PUBLISHED.items() if row.source == "Detectron2's model zoo"]


@pytest.mark.parametrize("name", sorted({*SETTINGS, *DETECTRON2} - {"cascade-rcnn_r50_fpn_1x_coco"}))
def test_training_scales_are_sampled_from_640_to_800(name):
    """INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN of the models whose results are cited, 1x and 3x."""
    resize = load_config(name).train_data.pipeline[0]
    assert (list(resize.size), resize.max_size) == ([640, 672, 704, 736, 768, 800], 1333)


def test_cascade_rcnn_has_the_single_scale_of_mmdetection_whose_figure_is_cited():
    """MMDetection's configs/_base_/datasets/coco_detection.py: scale=(1333, 800)."""
    assert PUBLISHED["cascade-rcnn_r50_fpn_1x_coco"].source == "MMDetection's model zoo"
    resize = load_config("cascade-rcnn_r50_fpn_1x_coco").train_data.pipeline[0]
    assert (resize.size, resize.max_size) == (800, 1333)


def test_only_mask_and_keypoint_configs_read_masks_and_keypoints():
    for name in SETTINGS:
        dataset = load_config(name).train_data.dataset
        assert bool(dataset.get("masks")) == ("mask-" in name) and bool(dataset.get("keypoints")) == (
            "keypoint" in name
        )
