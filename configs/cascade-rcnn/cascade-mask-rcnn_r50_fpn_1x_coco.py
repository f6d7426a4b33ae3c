"""Cascade Mask R-CNN, ResNet-50, FPN, 1× on COCO (42.1 box and 36.4 mask AP in Detectron2's model zoo)."""

_base_ = [
    "../_base_/models/cascade-rcnn_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/1x.py",
]
model = dict(mask=dict(type="MaskHead", resolution=14, sampling_ratio=0, convs=4, channels=256))
