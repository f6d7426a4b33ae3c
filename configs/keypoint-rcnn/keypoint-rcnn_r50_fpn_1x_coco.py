"""Keypoint R-CNN, ResNet-50, FPN, 1× with multi-scale training on COCO."""

_base_ = [
    "../_base_/models/keypoint-rcnn_fpn.py",
    "../_base_/datasets/coco_keypoint.py",
    "../_base_/schedules/1x.py",
]
