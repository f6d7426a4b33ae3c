"""Faster R-CNN, ResNet-18, FPN, 3× and several scales on COCO."""

_base_ = ["./faster-rcnn_r50_fpn_3x_coco.py"]

model = dict(backbone=dict(type="resnet18"))
