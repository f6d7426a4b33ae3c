"""COCO 2017 boxes with the shortest edge drawn from 640, 672 … 800: Detectron2's setting for its 3x schedule."""

_base_ = ["coco_detection.py"]
train_data = dict(
    pipeline=[
        dict(type="ResizeShortestEdge", size=[640, 672, 704, 736, 768, 800], max_size=1333),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
)
