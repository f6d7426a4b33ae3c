"""COCO 2017 boxes and masks: shortest edge 800 px, longest at most 1333 px, flips (He et al. 2017, section 3.1)."""

_base_ = ["coco_detection.py"]
train_data = dict(dataset=dict(masks=True))
