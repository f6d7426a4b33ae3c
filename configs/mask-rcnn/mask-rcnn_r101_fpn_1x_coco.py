"""Mask R-CNN, ResNet-101, FPN, 1× on COCO."""

_base_ = ["./mask-rcnn_r50_fpn_1x_coco.py"]

model = dict(backbone=dict(type="resnet101"))
