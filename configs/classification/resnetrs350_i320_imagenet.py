"""ResNet-RS at 320 px on ImageNet (Bello et al. 2021, section 4.2, and the authors' configs)."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_resnetrs320.py",
    "../_base_/schedules/resnetrs_350e.py",
]

model = dict(
    backbone=dict(type="resnetrs350", drop_path=0.1, zero_init_last=True),
    head=dict(dropout=0.4, label_smoothing=0.1),
)
