"""DenseNet-201 on ImageNet (Huang et al. 2017, table 3: 22.58 % error, 21.46 % of 10 crops)."""

_base_ = ["./densenet121_imagenet.py"]

model = dict(backbone=dict(type="densenet201"))
