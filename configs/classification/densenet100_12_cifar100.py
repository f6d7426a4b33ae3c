"""DenseNet-BC of 100 layers and growth rate 12 on CIFAR-100 (Huang et al. 2017, table 2: 22.27 % error, C100+)."""

_base_ = ["./densenet100_12_cifar10.py"]

model = dict(preprocess=dict(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)))
fallback_meta = dict(classes=100)
train_data = dict(dataset=dict(type="CIFAR100"))
val_data = dict(dataset=dict(type="CIFAR100"))
