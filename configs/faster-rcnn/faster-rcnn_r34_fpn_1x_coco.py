"""Faster R-CNN, ResNet-34, FPN, 1× on COCO."""

_base_ = ["./faster-rcnn_r50_fpn_1x_coco.py"]

model = dict(backbone=dict(type="resnet34"))
