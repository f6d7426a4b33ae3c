"""SE-ResNeXt-50 (32×4d) on ImageNet (Hu et al. 2018, table 2: 21.10 % error)."""

_base_ = ["./seresnet50_imagenet.py"]

model = dict(backbone=dict(type="seresnext50_32x4d"))
