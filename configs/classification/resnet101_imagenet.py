"""ResNet of 101 layers on ImageNet (He et al. 2016, table 3: 21.75 % error, 10 crops; table 4: 19.87 % multi-scale)."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="resnet101"))
