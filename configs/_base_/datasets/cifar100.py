"""CIFAR-100, to replace CIFAR-10 in its recipes: in `_base_`, list this file after a CIFAR-10 config.

Mean and standard deviation are those of CIFAR-100's training images.
"""

fallback_meta = dict(classes=100)
model = dict(preprocess=dict(mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4)))
train_data = dict(dataset=dict(type="CIFAR100"))
val_data = dict(dataset=dict(type="CIFAR100"))
