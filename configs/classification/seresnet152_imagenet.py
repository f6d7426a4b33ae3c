"""SE-ResNet-152 on ImageNet (Hu et al. 2018, table 2: 21.57 % error)."""

_base_ = ["./seresnet50_imagenet.py"]

model = dict(backbone=dict(type="seresnet152"))
