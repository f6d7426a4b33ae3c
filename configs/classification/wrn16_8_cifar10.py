"""WRN-16-8 on CIFAR-10 (Zagoruyko & Komodakis 2016, table 5: 4.27 % error)."""

_base_ = ["./wrn16_4_cifar10.py"]

model = dict(backbone=dict(type="wrn16_8_cifar"))
