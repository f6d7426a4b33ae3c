"""ResNet-RS at 256 px on ImageNet (Bello et al. 2021, section 4.2, and the authors' configs)."""

_base_ = ["./resnetrs50_i160_imagenet.py"]

model = dict(backbone=dict(type="resnetrs200", drop_path=0.1))
train_data = dict(pipeline=[dict(type="RandomResizedCrop", size=256), *_base_.train_data.pipeline[1:]])
val_data = dict(pipeline=[dict(type="Resize", size=293, interpolation="bicubic"), dict(type="CenterCrop", size=256)])
