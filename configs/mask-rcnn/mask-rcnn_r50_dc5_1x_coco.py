"""Mask R-CNN, ResNet-50-DC5, 1× and several scales on COCO (38.3 box and 34.2 mask AP in Detectron2's model zoo)."""

_base_ = [
    "../_base_/models/mask-rcnn_dc5.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/1x.py",
]
