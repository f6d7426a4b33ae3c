"""WRN-28-10 on CIFAR-10 (Zagoruyko & Komodakis 2016, table 5: 4.00 % error)."""

_base_ = ["./wrn16_4_cifar10.py"]

model = dict(backbone=dict(type="wrn28_10_cifar"))
