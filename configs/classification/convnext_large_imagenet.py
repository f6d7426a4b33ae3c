"""ConvNeXt-L on ImageNet (Liu et al. 2022, table 1: 15.7 % error; recipe: appendix A.1, table 5)."""

_base_ = ["./convnext_tiny_imagenet.py"]

model = dict(backbone=dict(type="convnext_large", drop_path=0.5))
