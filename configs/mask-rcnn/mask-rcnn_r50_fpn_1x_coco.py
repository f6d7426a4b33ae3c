"""Mask R-CNN, ResNet-50, FPN, 1× with multi-scale training on COCO."""

_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/1x.py",
]
