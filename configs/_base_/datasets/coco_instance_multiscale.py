"""COCO 2017 boxes and masks with the shortest edge sampled from 640 … 800 px, see `coco_detection_multiscale.py`."""

_base_ = ["coco_detection_multiscale.py"]
train_data = dict(dataset=dict(masks=True))
