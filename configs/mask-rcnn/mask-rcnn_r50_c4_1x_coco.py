"""Mask R-CNN, ResNet-50-C4, 1× and several scales on COCO (36.8 box and 32.2 mask AP in Detectron2's model zoo)."""

_base_ = [
    "../_base_/models/mask-rcnn_c4.py",
    "../_base_/datasets/coco_instance_multiscale.py",
    "../_base_/schedules/1x.py",
]
