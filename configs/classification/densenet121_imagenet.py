"""DenseNet-121 on ImageNet (Huang et al. 2017, table 3: 25.02 % error, 23.61 % of 10 crops)."""

_base_ = ["./wide_resnet50_2_imagenet.py"]

model = dict(backbone=dict(type="densenet121"))
