"""ResNets of 110 layers and more on CIFAR (He et al. 2016, section 4.2): 400 iterations of warm-up."""

_base_ = ["./resnet20_cifar10.py"]

model = dict(backbone=dict(type="resnet110_cifar"))
# "0.1 is slightly too large to start converging", so the rate is 0.01 until the error is below 80 %: ~400 iterations.
schedule = dict(warmup_iters=400, warmup_factor=0.1, warmup="constant")
