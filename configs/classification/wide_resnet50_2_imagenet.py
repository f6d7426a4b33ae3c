"""WRNs with bottlenecks on ImageNet (Zagoruyko & Komodakis 2016, section 3.4), as fb.resnet.torch trains; DenseNets too."""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_color.py",
    "../_base_/schedules/imagenet_90e.py",
]

model = dict(backbone=dict(type="wide_resnet50_2"))
optimizer = dict(nesterov=True)
