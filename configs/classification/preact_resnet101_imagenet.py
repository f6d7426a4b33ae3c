"""Pre-activation ResNet of 101 layers on ImageNet, trained as those of He et al. 2016, Identity Mappings, table 5."""

_base_ = ["./preact_resnet152_imagenet.py"]

model = dict(backbone=dict(type="preact_resnet101"))
