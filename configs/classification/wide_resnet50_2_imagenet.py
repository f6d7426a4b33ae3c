"""WRN-50-2-bottleneck on ImageNet (Zagoruyko & Komodakis 2016, table 8: 21.9 % error)."""

_base_ = [
    "../_base_/models/imagenet_classifier.py",
    "../_base_/datasets/imagenet_color.py",
    "../_base_/schedules/imagenet_90e.py",
]

model = dict(backbone=dict(type="wide_resnet50_2"))
optimizer = dict(nesterov=True)
