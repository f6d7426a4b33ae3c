"""ResNet of 44 layers on CIFAR-10 (He et al. 2016, table 6: 7.17 % error)."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="resnet44_cifar"))
