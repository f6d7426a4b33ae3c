"""ResNet of 34 layers on ImageNet (He et al. 2016, table 3: 24.52 % error, 10 crops; table 4: 21.84 % multi-scale)."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="resnet34"))
