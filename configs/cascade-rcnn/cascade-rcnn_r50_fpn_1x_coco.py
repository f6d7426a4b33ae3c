"""Cascade R-CNN, ResNet-50, FPN, 1× on COCO (Cai & Vasconcelos 2018).

MMDetection's data, a single scale of 800: its figure is cited, since Detectron2 has none without masks.
"""

_base_ = [
    "../_base_/models/cascade-rcnn_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/1x.py",
]
