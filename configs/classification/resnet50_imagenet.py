"""ResNet of 50 layers on ImageNet (He et al. 2016, table 3: 22.85 % error, 10 crops; table 4: 20.74 % multi-scale).

The stride is in the 3×3 convolution, as in fb.resnet.torch; `model.backbone.style="caffe"` has it where the paper does.
"""

_base_ = [
    "../_base_/models/imagenet_classifier.py",
    "../_base_/datasets/imagenet_scale.py",
    "../_base_/schedules/imagenet_90e.py",
]
