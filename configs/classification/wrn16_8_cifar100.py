"""WRN-16-8 on CIFAR-100 (Zagoruyko & Komodakis 2016, table 5: 20.43 % error)."""

_base_ = ["./wrn16_8_cifar10.py"]

model = dict(preprocess=dict(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)))
fallback_meta = dict(classes=100)
train_data = dict(dataset=dict(type="CIFAR100"))
val_data = dict(dataset=dict(type="CIFAR100"))
