"""Plain net of 34 layers on ImageNet (He et al. 2016, table 2: 28.54 % error of 10 crops)."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="plain34"))
