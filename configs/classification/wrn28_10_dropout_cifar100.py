"""WRN-28-10 with dropout on CIFAR-100 (Zagoruyko & Komodakis 2016, table 6: 18.85 % error)."""

_base_ = ["./wrn28_10_dropout_cifar10.py", "../_base_/datasets/cifar100.py"]
