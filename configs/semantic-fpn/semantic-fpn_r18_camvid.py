"""Semantic FPN, ResNet-18, on CamVid."""

_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/camvid_30e.py",
]

model = dict(backbone=dict(type="resnet18"))
