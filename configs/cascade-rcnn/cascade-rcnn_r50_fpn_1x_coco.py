"""Cascade R-CNN, ResNet-50, FPN, 1× on COCO (Cai & Vasconcelos 2018, table 5)."""

_base_ = [
    "../_base_/models/cascade-rcnn_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/1x.py",
]
