"""WRN-28-10 on CIFAR-100 (Zagoruyko & Komodakis 2016, table 5: 19.25 % error)."""

_base_ = ["./wrn28_10_cifar10.py", "../_base_/datasets/cifar100.py"]
