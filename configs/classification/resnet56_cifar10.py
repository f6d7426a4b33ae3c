"""ResNet of 56 layers on CIFAR-10 (He et al. 2016, table 6: 6.97 % error)."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="resnet56_cifar"))
