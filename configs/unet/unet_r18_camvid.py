"""U-Net (Ronneberger et al. 2015) with ResNet-18 as the encoder, on CamVid.

The decoder upsamples the last feature map of the backbone (c5), with skip connections from all others: c1 … c4 of a
ResNet, c2 … c4 of a ConvNeXt.

0.574 validation mIoU and 0.471 test mIoU from random weights, measured by this project (docs/results.md, "CamVid from
scratch"); no figure is published for this network.
"""

_base_ = ["../_base_/datasets/camvid.py", "../_base_/schedules/camvid_30e.py"]

model = dict(
    type="SemanticSegmenter",
    backbone=dict(type="resnet18", out="all", pretrained=True),
    neck=dict(type="UNet", channels=[256, 128, 64, 64, 64]),  # 64 at full size, as in figure 1 of the paper
    head=dict(type="FCNHead", level="p0", convs=0, dropout=0.0),
    auxiliary=dict(type="FCNHead", level="c4", channels=64),
)
