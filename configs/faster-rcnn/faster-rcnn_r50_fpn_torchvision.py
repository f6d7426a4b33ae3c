"""Torchvision's `fasterrcnn_resnet50_fpn`, reproduced exactly: with its COCO weights, the outputs are the same.

Differences from our defaults: images are resized as in torchvision; anchors are rounded to whole pixels and have
torchvision's strides; the RPN proposes up to 2000 boxes per image in training; RoIAlign has aligned=False and
sampling_ratio=2; the box losses are smooth L1 with beta 1/9 instead of L1; BatchNorm's eps is 0 (1e-5 in torchvision if
built with `weights=None`).
"""

_base_ = [
    "../_base_/models/faster-rcnn_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/1x.py",
]

model = dict(
    # No ImageNet weights, since the detector's weights include the backbone.
    backbone=dict(norm=dict(eps=0.0), pretrained=None),
    rpn=dict(
        anchors=dict(rounded=True, stride_from_grid=True),
        post_nms_topk=(2000, 1000),
        smooth_l1_beta=1 / 9,
    ),
    box=dict(sampling_ratio=2, aligned=False, smooth_l1_beta=1 / 9),
)
_resize = dict(type="ResizeShortestEdge", size=800, max_size=1333, rounding="torchvision")
train_data = dict(pipeline=[_resize, dict(type="RandomHorizontalFlip", p=0.5)])
val_data = dict(pipeline=[_resize])
