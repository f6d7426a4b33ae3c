"""Pre-activation ResNet of 164 layers on CIFAR-10 (He et al. 2016, Identity Mappings, table 3: 5.46 % error)."""

_base_ = ["./resnet110_cifar10.py"]

model = dict(backbone=dict(type="preact_resnet164_cifar"))
