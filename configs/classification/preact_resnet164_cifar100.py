"""Pre-activation ResNet of 164 layers on CIFAR-100 (He et al. 2016, Identity Mappings, table 4: 24.33 % error)."""

_base_ = ["./preact_resnet164_cifar10.py"]

model = dict(preprocess=dict(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)))
fallback_meta = dict(classes=100)
train_data = dict(dataset=dict(type="CIFAR100"))
val_data = dict(dataset=dict(type="CIFAR100"))
