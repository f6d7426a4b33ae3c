"""ResNet of 18 layers on ImageNet (He et al. 2016, table 2: 27.88 % error, 10 crops, shortcuts A)."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="resnet18"))
