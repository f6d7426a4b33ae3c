"""Semantic FPN, ResNet-50-C, 160,000 iterations on ADE20K.

37.49 mIoU in MMSegmentation's configs/sem_fpn/README.md, table "ADE20K".
"""

_base_ = [
    "../_base_/models/semantic-fpn.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/poly.py",
]

train = dict(iterations=160_000)
