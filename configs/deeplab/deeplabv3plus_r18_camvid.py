"""DeepLab v3+, ResNet-18, output stride 16, on CamVid, with the paper's 256 channels.

0.603 validation mIoU and 0.481 test mIoU from random weights, measured by this project (docs/results.md, "CamVid from
scratch"); no figure is published for this network.
"""

_base_ = [
    "../_base_/models/deeplabv3plus.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/camvid_30e.py",
]

model = dict(
    backbone=dict(type="resnet18", output_stride=16),
    head=dict(channels=256, project_kernel=1),
    auxiliary=dict(channels=64),
)
