"""Pre-activation ResNet of 1001 layers on CIFAR-100 (He et al. 2016, Identity Mappings, table 4: 22.71 % error)."""

_base_ = ["./preact_resnet1001_cifar10.py", "../_base_/datasets/cifar100.py"]
