"""WRN-16-4 on CIFAR-100 (Zagoruyko & Komodakis 2016, table 6: 24.03 % error)."""

_base_ = ["./wrn16_4_cifar10.py", "../_base_/datasets/cifar100.py"]
