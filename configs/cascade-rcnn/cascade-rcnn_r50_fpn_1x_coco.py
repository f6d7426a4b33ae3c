"""Cascade R-CNN, ResNet-50, FPN, 1× on COCO (Cai & Vasconcelos 2018).

The data settings are MMDetection's (a single scale, 800 px), because the published result is MMDetection's; Detectron2
has no result without masks.
"""

_base_ = [
    "../_base_/models/cascade-rcnn_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/1x.py",
]
