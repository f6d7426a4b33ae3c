"""Torchvision's `maskrcnn_resnet50_fpn_v2`, reproduced exactly (Li et al. 2021, Benchmarking Detection Transfer
Learning).
"""

_base_ = ["../faster-rcnn/faster-rcnn_r50_fpn-v2_torchvision.py"]

model = dict(mask=dict(type="MaskHead", sampling_ratio=2, aligned=False, norm="BN"))
train_data = dict(dataset=dict(masks=True))
