"""ConvNeXt-L of ImageNet-1k fine-tuned at 384 px (Liu et al. 2022, table 1: 14.5 % error; appendix A.2, table 6)."""

_base_ = ["./convnext_base_i384_imagenet.py"]

model = dict(backbone=dict(type="convnext_large", drop_path=0.95))
