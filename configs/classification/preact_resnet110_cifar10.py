"""Pre-activation ResNet of 110 layers on CIFAR-10 (He et al. 2016, Identity Mappings, table 3: 6.37 % error)."""

_base_ = ["./resnet110_cifar10.py"]

model = dict(backbone=dict(type="preact_resnet110_cifar"))
