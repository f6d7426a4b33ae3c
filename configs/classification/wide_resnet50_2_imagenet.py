"""Bottleneck WRNs (Zagoruyko & Komodakis 2016) and DenseNets on ImageNet, trained as in fb.resnet.torch."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_color.py",
    "../_base_/schedules/imagenet_90e.py",
]

model = dict(backbone=dict(type="wide_resnet50_2"))
optimizer = dict(nesterov=True)
