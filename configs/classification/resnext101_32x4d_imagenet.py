"""ResNeXt-101 (32×4d) on ImageNet (Xie et al. 2017, table 3: 21.2 % error)."""

_base_ = ["./resnext50_32x4d_imagenet.py"]

model = dict(backbone=dict(type="resnext101_32x4d"))
