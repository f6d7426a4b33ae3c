"""Pre-activation ResNets on ImageNet (He et al. 2016, Identity Mappings, table 5), tested at 320 px."""

_base_ = ["./resnet50_imagenet.py"]

model = dict(backbone=dict(type="preact_resnet152"))
val_data = dict(pipeline=[dict(type="Resize", size=320), dict(type="CenterCrop", size=320)])
