"""ResNeXts on ImageNet (Xie et al. 2017, section 4), with fb.resnet.torch's augmentation."""

_base_ = ["./wide_resnet50_2_imagenet.py"]

model = dict(backbone=dict(type="resnext50_32x4d"))
# Section 4 divides the rate by 10 "for three times"; the authors' code does so every 30 epochs, and trains for 100.
schedule = dict(milestones=[30, 60, 90])
train = dict(epochs=100)
