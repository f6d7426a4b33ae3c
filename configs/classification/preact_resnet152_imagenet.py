"""Pre-activation ResNet of 152 layers on ImageNet (He et al. 2016, Identity Mappings, table 5: 21.1 % error)."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="preact_resnet152"))
val_data = dict(pipeline=[dict(type="Resize", size=320), dict(type="CenterCrop", size=320)])
