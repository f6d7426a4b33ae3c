"""SE-ResNet-101 on ImageNet (Hu et al. 2018, table 2: 22.38 % error)."""

_base_ = ["./seresnet50_imagenet.py"]

model = dict(backbone=dict(type="seresnet101"))
