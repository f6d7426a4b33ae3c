"""WRN-40-4 on CIFAR-100 (Zagoruyko & Komodakis 2016, table 5: 21.18 % error)."""

_base_ = ["./wrn40_4_cifar10.py", "../_base_/datasets/cifar100.py"]
