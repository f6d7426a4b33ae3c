"""Torchvision's `fcn_resnet50`, with the classes of its weights: Pascal VOC's 21, background first.

60.5 mIoU on COCO val2017 with VOC's classes, in torchvision's documentation, table "Table of all available semantic
segmentation weights" (`FCN_ResNet50_Weights`). They were trained on COCO; this config trains on Pascal VOC.
"""

_base_ = ["../_base_/models/deeplabv3.py", "../_base_/datasets/voc_semantic.py", "../_base_/schedules/poly.py"]

model = dict(backbone=dict(type="resnet50"), head=dict(_delete_=True, type="FCNHead"), auxiliary_weight=0.5)
