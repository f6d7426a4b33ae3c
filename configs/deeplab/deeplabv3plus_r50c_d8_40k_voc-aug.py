"""DeepLab v3+, ResNet-50-C, output stride 8, 40,000 iterations on Pascal VOC 2012 and SBD.

76.81 mIoU in MMSegmentation's configs/deeplabv3plus/README.md, table "Pascal VOC 2012 + Aug".
"""

_base_ = [
    "../_base_/models/deeplabv3plus.py",
    "../_base_/datasets/voc_semantic.py",
    "../_base_/schedules/poly.py",
]

train = dict(iterations=40_000)
