"""torchvision's `deeplabv3_resnet50`, with the classes of its weights: Pascal VOC's 21, background first.

66.4 mIoU on COCO val2017 with VOC's classes, in torchvision's documentation, table "Table of all available semantic
segmentation weights" (`DeepLabV3_ResNet50_Weights`). They were trained on COCO; this config trains on Pascal VOC.
"""

_base_ = ["../_base_/models/deeplabv3.py", "../_base_/datasets/voc_semantic.py", "../_base_/schedules/poly.py"]

model = dict(
    backbone=dict(type="resnet50"),
    head=dict(channels=256, project_kernel=1, aspp_dropout=0.5, dropout=0.0),
    auxiliary_weight=0.5,
)
