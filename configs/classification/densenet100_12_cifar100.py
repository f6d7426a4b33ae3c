"""DenseNet-BC of 100 layers and growth rate 12 on CIFAR-100 (Huang et al. 2017, table 2: 22.27 % error, C100+)."""

_base_ = ["./densenet100_12_cifar10.py", "../_base_/datasets/cifar100.py"]
