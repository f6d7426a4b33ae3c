"""Panoptic-DeepLab (Cheng et al. 2020) at output stride 16, with the settings of Detectron2's project (DSConv).

The backbone is ResNet-50; Detectron2's R-52 is our `resnet50s`. `heads/dual_decoder.py` lists the three
differences between Detectron2's heads and ours.
"""

model = dict(
    type="PanopticDeepLab",
    backbone=dict(type="resnet50", out=["c2", "c3", "c5"], output_stride=16, pretrained=True),
    semantic=dict(type="PanopticDeepLabHead"),
    center=dict(type="CenterOffsetHead", low_channels=(64, 32), sigma=10.0),
)
