"""Faster R-CNN, ResNet-50, FPN, 1× on COCO (Lin et al. 2017, table 3)."""

_base_ = [
    "../_base_/models/faster-rcnn_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/1x.py",
]
