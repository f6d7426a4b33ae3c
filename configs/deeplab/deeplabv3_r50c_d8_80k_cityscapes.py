"""DeepLab v3, ResNet-50-C, output stride 8, 80,000 iterations on Cityscapes.

79.32 mIoU in MMSegmentation's configs/deeplabv3/README.md, table "Cityscapes".
"""

_base_ = [
    "../_base_/models/deeplabv3.py",
    "../_base_/datasets/cityscapes_semantic.py",
    "../_base_/schedules/poly.py",
]

optimizer = dict(base_batch_size=8)
