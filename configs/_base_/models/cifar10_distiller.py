"""Settings for the weights of Intel's distiller: projection shortcuts; mean and standard deviation 0.5 × 255.

In `_base_`, list this file after a config of a ResNet on CIFAR.
"""

model = dict(
    backbone=dict(shortcut="B"),
    preprocess=dict(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)),
)
