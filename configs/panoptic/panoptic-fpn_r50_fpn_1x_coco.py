"""Panoptic FPN, ResNet-50, 1× schedule with multi-scale training on COCO."""

_base_ = [
    "../_base_/models/panoptic-fpn.py",
    "../_base_/datasets/coco_panoptic_multiscale.py",
    "../_base_/schedules/1x.py",
]

train = dict(save_best="PQ")
