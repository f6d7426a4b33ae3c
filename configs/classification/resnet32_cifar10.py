"""ResNet of 32 layers on CIFAR-10 (He et al. 2016, table 6: 7.51 % error)."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="resnet32_cifar"))
