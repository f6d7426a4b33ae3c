"""Mask R-CNN, ResNet-101, FPN, 3× and several scales on COCO (42.9 box and 38.6 mask AP in Detectron2's model zoo)."""

_base_ = ["./mask-rcnn_r50_fpn_3x_coco.py"]

model = dict(backbone=dict(type="resnet101"))
