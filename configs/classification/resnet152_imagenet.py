"""ResNet of 152 layers on ImageNet (He et al. 2016, table 3: 21.43 % error, 10 crops; table 4: 19.38 % multi-scale)."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="resnet152"))
