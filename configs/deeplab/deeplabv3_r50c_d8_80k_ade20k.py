"""DeepLab v3, ResNet-50-C, output stride 8, 80,000 iterations on ADE20K.

42.42 mIoU in MMSegmentation's configs/deeplabv3/README.md, table "ADE20K".
"""

_base_ = [
    "../_base_/models/deeplabv3.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/poly.py",
]
