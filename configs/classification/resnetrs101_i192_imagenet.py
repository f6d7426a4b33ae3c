"""ResNet-RS-101 at 192 px on ImageNet (Bello et al. 2021, section 4.2; 18.8 % error by the authors' repository)."""

_base_ = [
    "../_base_/models/imagenet_classifier.py",
    "../_base_/datasets/imagenet_resnetrs192.py",
    "../_base_/schedules/resnetrs_350e.py",
]

model = dict(
    backbone=dict(type="resnetrs101", drop_path=0.0, zero_init_last=True),
    head=dict(dropout=0.25, label_smoothing=0.1),
)
