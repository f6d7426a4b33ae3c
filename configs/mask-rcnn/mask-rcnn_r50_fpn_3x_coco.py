"""Mask R-CNN, ResNet-50, FPN, 3× and several scales on COCO (41.0 box and 37.2 mask AP in Detectron2's model zoo)."""

_base_ = [
    "../_base_/models/mask-rcnn_fpn.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/3x.py",
]
