"""ResNet-RS at 224 px on ImageNet (Bello et al. 2021, section 4.2, and the authors' configs)."""

_base_ = ["./resnetrs50_i160_imagenet.py"]

model = dict(backbone=dict(type="resnetrs152"))
train_data = dict(pipeline=[dict(type="RandomResizedCrop", size=224), *_base_.train_data.pipeline[1:]])
val_data = dict(pipeline=[dict(type="Resize", size=256, interpolation="bicubic"), dict(type="CenterCrop", size=224)])
