"""COCO 2017 people in crops of 384×288 px; other settings as in `coco_pose.py`."""

_base_ = ["coco_pose.py"]
train_data = dict(
    pipeline=[
        dict(type="TopDownCrop", size=(384, 288), rotation=40, scale=0.3),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
)
val_data = dict(pipeline=[dict(type="TopDownCrop", size=(384, 288))])
