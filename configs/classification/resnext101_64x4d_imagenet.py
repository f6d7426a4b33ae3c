"""ResNeXt-101 (64×4d) on ImageNet (Xie et al. 2017, table 5: 20.4 % error)."""

_base_ = ["./resnext50_32x4d_imagenet.py"]

model = dict(backbone=dict(type="resnext101_64x4d"))
