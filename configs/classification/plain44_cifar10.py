"""Plain net of 44 layers on CIFAR-10 (He et al. 2016, figure 6, left)."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="plain44_cifar"))
