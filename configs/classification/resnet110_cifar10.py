"""ResNets of 110 layers and more on CIFAR (He et al. 2016, section 4.2): the first 400 iterations at a lower rate."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="resnet110_cifar"))
# "0.1 is slightly too large to start converging": 0.01 until the error is below 80 %, about 400 iterations.
schedule = dict(warmup_iters=400, warmup_factor=0.1, warmup="constant")
