"""ResNet-20 with the settings of the weights of Intel's distiller: projection shortcuts, mean and deviation of 0.5."""

_base_ = "resnet20_cifar10.py"

model = dict(
    backbone=dict(shortcut="B"),
    preprocess=dict(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)),
)
