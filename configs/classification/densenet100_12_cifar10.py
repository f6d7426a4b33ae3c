"""DenseNet-BC of 100 layers and growth rate 12 on CIFAR-10 (Huang et al. 2017, table 2: 4.51 % error, C10+)."""

_base_ = [
    "../_base_/models/cifar_classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/densenet_300e.py",
]

model = dict(backbone=dict(type="densenet100_12_cifar"))
train_data = dict(batch_size=64)
