"""Torchvision's `keypointrcnn_resnet50_fpn`, reproduced exactly: with its COCO weights, the outputs are the same.

The differences from our defaults are those of `faster-rcnn_r50_fpn_torchvision`.
"""

_base_ = ["../faster-rcnn/faster-rcnn_r50_fpn_torchvision.py"]

model = dict(keypoint=dict(type="KeypointHead", sampling_ratio=2, aligned=False))
fallback_meta = dict(classes=["person"], skeleton="coco")
train_data = dict(dataset=dict(annotations="annotations/person_keypoints_train2017.json", keypoints=True))
val_data = dict(dataset=dict(annotations="annotations/person_keypoints_val2017.json", keypoints=True))
