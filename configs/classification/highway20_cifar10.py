"""Highway network of 20 layers on CIFAR-10, in ResNet's size and recipe, to be compared with `resnet20_cifar10`.

(The networks of Srivastava et al. 2015 are wider: 7.72 % error of 19 layers, 8.80 % of 32, as He et al. 2016, table 6,
have it.)
"""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="highway20_cifar"))
