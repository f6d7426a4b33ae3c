"""Settings for the weights of github.com/akamaster/pytorch_resnet_cifar10.

The option-A shortcuts (He et al. 2016) put half of the zero channels before the input's channels and half after them.
Mean and standard deviation are ImageNet's. In `_base_`, list this file after a config of a ResNet on CIFAR.
"""

model = dict(
    backbone=dict(shortcut="A-centered"),
    preprocess=dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
)
