"""WRN-40-4 on CIFAR-10 (Zagoruyko & Komodakis 2016, table 5: 4.53 % error)."""

_base_ = ["./wrn16_4_cifar10.py"]

model = dict(backbone=dict(type="wrn40_4_cifar"))
