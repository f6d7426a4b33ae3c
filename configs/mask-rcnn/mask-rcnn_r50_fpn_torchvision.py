"""Torchvision's `maskrcnn_resnet50_fpn`, reproduced exactly: with its COCO weights, the outputs are the same.

The differences from our defaults are those of `faster-rcnn_r50_fpn_torchvision`.
"""

_base_ = ["../faster-rcnn/faster-rcnn_r50_fpn_torchvision.py"]

model = dict(mask=dict(type="MaskHead", sampling_ratio=2, aligned=False))
train_data = dict(dataset=dict(masks=True))
