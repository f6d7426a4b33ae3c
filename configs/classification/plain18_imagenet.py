"""Plain net of 18 layers on ImageNet (He et al. 2016, table 2: 27.94 % error of 10 crops)."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="plain18"))
