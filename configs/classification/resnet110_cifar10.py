"""ResNets of 110 layers and more on CIFAR (He et al. 2016, section 4.2): 400 iterations of warm-up."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="resnet110_cifar"))
# A learning rate of "0.1 is slightly too large to start converging", so the paper trains with 0.01 until the training
# error is below 80 % (about 400 iterations).
schedule = dict(warmup_iters=400, warmup_factor=0.1, warmup="constant")
