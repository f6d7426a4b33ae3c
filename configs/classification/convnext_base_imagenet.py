"""ConvNeXt-B on ImageNet (Liu et al. 2022, table 1: 16.2 % error; recipe: appendix A.1, table 5)."""

_base_ = ["./convnext_tiny_imagenet.py"]

model = dict(backbone=dict(type="convnext_base", drop_path=0.5))
