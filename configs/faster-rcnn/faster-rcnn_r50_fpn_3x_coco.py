"""Faster R-CNN, ResNet-50, FPN, 3× with multi-scale training on COCO."""

_base_ = [
    "../_base_/models/faster-rcnn_fpn.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/3x.py",
]
