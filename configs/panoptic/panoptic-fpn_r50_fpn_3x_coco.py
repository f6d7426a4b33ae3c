"""Panoptic FPN, ResNet-50, 3× with multi-scale training on COCO."""

_base_ = [
    "../_base_/models/panoptic-fpn.py",
    "../_base_/datasets/coco_panoptic_multiscale.py",
    "../_base_/schedules/3x.py",
]

train = dict(save_best="PQ")
