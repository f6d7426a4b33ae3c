"""Semantic FPN, ResNet-50-C, 80,000 iterations on Cityscapes.

74.52 mIoU in MMSegmentation's configs/sem_fpn/README.md, table "Cityscapes".
"""

_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/cityscapes_semantic.py",
    "../_base_/schedules/poly.py",
]

optimizer = dict(base_batch_size=8)
