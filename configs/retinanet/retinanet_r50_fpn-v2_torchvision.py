"""Torchvision's `retinanet_resnet50_fpn_v2`, reproduced exactly (its settings are from Zhang et al. 2020, ATSS).

Changes from the first version: trainable BatchNorm in the backbone and no frozen stages, p6 from c5, GroupNorm in the
towers, GIoU loss.
"""

_base_ = ["./retinanet_r50_fpn_torchvision.py"]

model = dict(
    backbone=dict(norm="BN", frozen_stages=-1),
    neck=dict(extra="c5"),
    head=dict(norm="GN", box_loss="giou"),
)
