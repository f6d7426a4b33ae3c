"""Torchvision's `fasterrcnn_resnet50_fpn_v2`, reproduced exactly (Li et al. 2021, Benchmarking Detection
Transfer Learning).

Changes from the first version: trainable BatchNorm in the backbone and no frozen stages, BatchNorm in the neck and the
box head, two convolutions in the RPN, four convolutions and one fully connected layer in the box head.
"""

_base_ = ["./faster-rcnn_r50_fpn_torchvision.py"]

model = dict(
    backbone=dict(norm="BN", frozen_stages=-1),
    neck=dict(norm="BN"),
    rpn=dict(convs=2),
    box=dict(trunk=dict(convs=4, fcs=1, norm="BN")),
)
