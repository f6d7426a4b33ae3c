"""Faster R-CNN, ResNet-50-C4, 1× with multi-scale training on COCO."""

_base_ = [
    "../_base_/models/faster-rcnn_c4.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/1x.py",
]
