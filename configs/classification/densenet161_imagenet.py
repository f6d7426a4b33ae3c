"""DenseNet-161, of growth rate 48, on ImageNet (Huang et al. 2017; 22.2 % error by the authors' repository)."""

_base_ = ["./densenet121_imagenet.py"]

model = dict(backbone=dict(type="densenet161"))
