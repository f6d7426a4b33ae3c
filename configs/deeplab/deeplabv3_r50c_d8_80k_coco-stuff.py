"""DeepLab v3, ResNet-50-C, output stride 8, 80,000 iterations on COCO-Stuff 164k."""

_base_ = [
    "../_base_/models/deeplabv3.py",
    "../_base_/datasets/coco_stuff.py",
    "../_base_/schedules/poly.py",
]
