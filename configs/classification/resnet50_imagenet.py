"""ResNets on ImageNet (He et al. 2016, section 3.4).

The stride is in the 3×3 convolution, as in fb.resnet.torch; `model.backbone.style="caffe"` puts it in
the first 1×1 convolution, as in the paper.
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_scale.py",
    "../_base_/schedules/imagenet_90e.py",
]

model = dict(backbone=dict(type="resnet50"))
