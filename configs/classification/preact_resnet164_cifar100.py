"""Pre-activation ResNet of 164 layers on CIFAR-100 (He et al. 2016, Identity Mappings, table 4: 24.33 % error)."""

_base_ = ["./preact_resnet164_cifar10.py", "../_base_/datasets/cifar100.py"]
