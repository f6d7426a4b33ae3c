"""ResNeXts on ImageNet (Xie et al. 2017, section 4), with fb.resnet.torch's augmentation."""

_base_ = ["./wide_resnet50_2_imagenet.py"]

model = dict(backbone=dict(type="resnext50_32x4d"))
# The paper divides the learning rate by 10 three times (section 4); the milestones are from the authors' code.
schedule = dict(milestones=[30, 60, 90])
train = dict(epochs=100)
