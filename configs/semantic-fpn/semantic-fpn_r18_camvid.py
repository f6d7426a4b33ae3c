"""Semantic FPN, ResNet-18, on CamVid.

0.569 validation mIoU and 0.466 test mIoU from random weights, measured by this project (docs/results.md, "CamVid from
scratch"); no figure is published for this network.
"""

_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/camvid_30e.py",
]

model = dict(backbone=dict(type="resnet18"))
