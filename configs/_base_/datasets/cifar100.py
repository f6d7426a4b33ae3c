"""CIFAR-100. To train a CIFAR-10 recipe on CIFAR-100, list this file in `_base_` after the CIFAR-10 config.

Mean and standard deviation are those of CIFAR-100's training images.
"""

fallback_meta = dict(classes=100)
model = dict(preprocess=dict(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)))
train_data = dict(dataset=dict(type="CIFAR100"))
val_data = dict(dataset=dict(type="CIFAR100"))
