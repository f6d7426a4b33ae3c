"""Panoptic-DeepLab, ResNet-50, 90,000 iterations of Adam with batch size 32 on Cityscapes.

The settings are those of Detectron2's project. There, the polynomial decay starts with the warm-up; here, it starts
after the warm-up.

60.3 PQ with R-52 (panoptic-deeplab_r52_cityscapes) in Detectron2's projects/Panoptic-DeepLab/README.md, table
"Cityscapes Panoptic Segmentation". No PQ is published for R-50 with separable convolutions; without, it is 58.6 in the
same table.
"""

_base_ = ["../_base_/models/panoptic-deeplab.py", "../_base_/datasets/cityscapes_panoptic.py"]

optimizer = dict(type="Adam", lr=1e-3, base_batch_size=32)
schedule = dict(type="poly", power=0.9, warmup_iters=1000)
train = dict(iterations=90_000, eval_every=5_000, save_every=5_000, save_best="PQ", sync_bn=True, channels_last="auto")
