"""Faster R-CNN, ResNet-152, FPN, 3× and several scales on COCO."""

_base_ = ["./faster-rcnn_r50_fpn_3x_coco.py"]

model = dict(backbone=dict(type="resnet152"))
