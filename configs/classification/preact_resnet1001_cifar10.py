"""Pre-activation ResNet of 1001 layers on CIFAR-10 (He et al. 2016, Identity Mappings, table 3: 4.92 % error)."""

_base_ = ["./resnet110_cifar10.py"]

model = dict(backbone=dict(type="preact_resnet1001_cifar"))
