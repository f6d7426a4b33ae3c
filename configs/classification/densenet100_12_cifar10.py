"""DenseNets on CIFAR (Huang et al. 2017, section 4.2), with flips and shifts (C10+ in the paper)."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/densenet_300e.py",
]

model = dict(backbone=dict(type="densenet100_12_cifar"))
train_data = dict(batch_size=64)
