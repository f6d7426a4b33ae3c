"""SE-ResNeXt-101 (32×4d) on ImageNet (Hu et al. 2018, table 2: 20.70 % error)."""

_base_ = ["./seresnet50_imagenet.py"]

model = dict(backbone=dict(type="seresnext101_32x4d"))
