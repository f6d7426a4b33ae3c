"""COCO 2017 boxes with the shortest edge sampled from 640, 672 … 800 px, as in Detectron2's 1x and 3x baselines
(INPUT.MIN_SIZE_TRAIN in its configs/Base-*.yaml).
"""

_base_ = ["coco_detection.py"]
train_data = dict(
    pipeline=[
        dict(type="ResizeShortestEdge", size=[640, 672, 704, 736, 768, 800], max_size=1333),
        dict(type="RandomHorizontalFlip", p=0.5),
    ],
)
