"""ResNet of 1202 layers on CIFAR-10 (He et al. 2016, table 6: 7.93 % error)."""

_base_ = ["./resnet110_cifar10.py"]

model = dict(backbone=dict(type="resnet1202_cifar"))
