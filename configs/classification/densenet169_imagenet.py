"""DenseNet-169 on ImageNet (Huang et al. 2017, table 3: 23.80 % error, 22.08 % of 10 crops)."""

_base_ = ["./densenet121_imagenet.py"]

model = dict(backbone=dict(type="densenet169"))
