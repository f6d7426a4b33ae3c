"""COCO 2017 boxes and masks with the shortest edge drawn from 640 … 800: Detectron2's setting for its 3x schedule."""

_base_ = ["coco_detection_multiscale.py"]
train_data = dict(dataset=dict(masks=True))
