"""COCO 2017 boxes with large-scale jitter: scales 0.1 … 2.0, crops ≤ 1024 px (Ghiasi et al. 2021, section 3)."""

_base_ = ["coco_detection.py"]
train_data = dict(
    pipeline=[
        dict(type="RandomHorizontalFlip", p=0.5),
        dict(type="LargeScaleJitter", size=1024, scale=(0.1, 2.0)),
    ],
)
val_data = dict(pipeline=[dict(type="ResizeShortestEdge", size=1024, max_size=1024)])
