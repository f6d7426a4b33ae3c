"""ResNet-RS at 160 px on ImageNet (Bello et al. 2021, section 4.2, and the authors' configs)."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_resnetrs.py",
    "../_base_/schedules/resnetrs_350e.py",
]

model = dict(
    backbone=dict(type="resnetrs50", drop_path=0.0, zero_init_last=True),
    head=dict(dropout=0.25, label_smoothing=0.1),
)
