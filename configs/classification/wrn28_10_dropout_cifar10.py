"""WRNs with dropout on CIFAR (Zagoruyko & Komodakis 2016, section 3.3): rate 0.3, between a block's convolutions."""

_base_ = ["./wrn16_4_cifar10.py"]

model = dict(backbone=dict(type="wrn28_10_cifar", dropout=0.3))
