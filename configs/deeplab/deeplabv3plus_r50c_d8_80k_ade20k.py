"""DeepLab v3+, ResNet-50-C, output stride 8, 80,000 iterations on ADE20K.

42.72 mIoU in MMSegmentation's configs/deeplabv3plus/README.md, table "ADE20K".
"""

_base_ = [
    "../_base_/models/deeplabv3plus.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/poly.py",
]
