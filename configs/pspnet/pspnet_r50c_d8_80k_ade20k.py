"""PSPNet, ResNet-50-C, output stride 8, 80,000 iterations on ADE20K.

41.13 mIoU in MMSegmentation's configs/pspnet/README.md, table "ADE20K".
"""

_base_ = [
    "../_base_/models/pspnet.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/poly.py",
]
