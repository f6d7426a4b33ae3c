"""Highway network of 32 layers on CIFAR-10, in ResNet's size and recipe, see `highway20_cifar10`."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="highway32_cifar"))
