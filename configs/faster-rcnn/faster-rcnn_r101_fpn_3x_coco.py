"""Faster R-CNN, ResNet-101, FPN, 3× and several scales on COCO (box AP 42.0 in Detectron2's model zoo)."""

_base_ = ["./faster-rcnn_r50_fpn_3x_coco.py"]

model = dict(backbone=dict(type="resnet101"))
