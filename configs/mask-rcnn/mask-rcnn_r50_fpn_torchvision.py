"""Torchvision's `maskrcnn_resnet50_fpn` to the letter: loads its COCO weights and gives its numbers.

The differences from ours are those of `faster-rcnn_r50_fpn_torchvision`.
"""

_base_ = ["../faster-rcnn/faster-rcnn_r50_fpn_torchvision.py"]

model = dict(mask=dict(type="MaskHead", sampling_ratio=2, aligned=False))
train_data = dict(dataset=dict(masks=True))
