"""ResNet of 20 layers on CIFAR-10 (He et al. 2016, table 6: 8.75 % error)."""

_base_ = [
    "../_base_/models/cifar_classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/cifar_64k.py",
]

model = dict(backbone=dict(type="resnet20_cifar"))
