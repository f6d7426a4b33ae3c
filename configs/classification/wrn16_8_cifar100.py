"""WRN-16-8 on CIFAR-100 (Zagoruyko & Komodakis 2016, table 5: 20.43 % error)."""

_base_ = ["./wrn16_8_cifar10.py", "../_base_/datasets/cifar100.py"]
