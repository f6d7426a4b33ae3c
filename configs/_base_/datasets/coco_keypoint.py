"""COCO 2017 people and their keypoints: shortest edge sampled from 640 … 800 px, flips (He et al. 2017, section 5).

The data root contains annotations/person_keypoints_{train,val}2017.json, train2017/ and val2017/.
"""

_base_ = ["coco_detection_multiscale.py"]

fallback_meta = dict(classes=["person"], skeleton="coco")
train_data = dict(dataset=dict(annotations="annotations/person_keypoints_train2017.json", keypoints=True))
val_data = dict(dataset=dict(annotations="annotations/person_keypoints_val2017.json", keypoints=True))
