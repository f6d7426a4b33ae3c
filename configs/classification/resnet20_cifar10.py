"""ResNet-20 on CIFAR-10 (He et al. 2016, section 4.2)."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/cifar_64k.py",
]

model = dict(backbone=dict(type="resnet20_cifar"))
