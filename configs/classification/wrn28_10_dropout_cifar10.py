"""WRN-28-10 with dropout on CIFAR-10 (Zagoruyko & Komodakis 2016, table 6: 3.89 % error)."""

_base_ = ["./wrn28_10_cifar10.py"]

model = dict(backbone=dict(dropout=0.3))
