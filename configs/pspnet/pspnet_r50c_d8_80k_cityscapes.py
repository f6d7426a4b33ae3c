"""PSPNet, ResNet-50-C, output stride 8, 80,000 iterations on Cityscapes.

78.55 mIoU in MMSegmentation's configs/pspnet/README.md, table "Cityscapes".
"""

_base_ = [
    "../_base_/models/pspnet.py",
    "../_base_/datasets/cityscapes_semantic.py",
    "../_base_/schedules/poly.py",
]

optimizer = dict(base_batch_size=8)
