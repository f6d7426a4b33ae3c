"""Mask R-CNN, ResNeXt-101 64×4d, FPN, 3× and several scales on COCO."""

_base_ = ["./mask-rcnn_r50_fpn_3x_coco.py"]

model = dict(backbone=dict(type="resnext101_64x4d"))
