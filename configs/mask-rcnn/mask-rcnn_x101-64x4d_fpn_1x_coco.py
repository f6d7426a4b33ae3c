"""Mask R-CNN, ResNeXt-101 64×4d, FPN, 1× on COCO."""

_base_ = ["./mask-rcnn_r50_fpn_1x_coco.py"]

model = dict(backbone=dict(type="resnext101_64x4d"))
