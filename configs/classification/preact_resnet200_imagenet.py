"""Pre-activation ResNet of 200 layers on ImageNet (He et al. 2016, Identity Mappings, table 5: 20.7 % error)."""

_base_ = ["./preact_resnet152_imagenet.py"]

model = dict(backbone=dict(type="preact_resnet200"))
