"""Faster R-CNN, ResNet-50, FPN, 3× and several scales on COCO (box AP 40.2 in Detectron2's model zoo)."""

_base_ = [
    "../_base_/models/faster-rcnn_fpn.py",
    "../_base_/datasets/coco_detection_multiscale.py",
    "../_base_/schedules/3x.py",
]
