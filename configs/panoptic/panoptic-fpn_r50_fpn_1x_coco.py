"""Panoptic FPN, ResNet-50, 1× schedule with multi-scale training on COCO.

39.4 PQ in Detectron2's MODEL_ZOO.md, table "COCO Panoptic Segmentation Baselines with Panoptic FPN" (R50-FPN, 1x);
41.5 PQ with the 3x schedule.
"""

_base_ = [
    "../_base_/models/panoptic-fpn.py",
    "../_base_/datasets/coco_panoptic_multiscale.py",
    "../_base_/schedules/1x.py",
]

train = dict(save_best="PQ")
