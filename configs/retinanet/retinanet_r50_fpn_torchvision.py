"""Torchvision's `retinanet_resnet50_fpn`, reproduced exactly: with its COCO weights, the outputs are the same.

Differences from our defaults: images are resized as in torchvision and padded to multiples of 32 px; p6 is computed
from p5; anchors have integer sizes, corners at whole pixels, and torchvision's strides; at most 300 detections per
image; BatchNorm's eps is 0. Torchvision's 91 outputs are indexed by COCO's category id (0 … 90, some of which are
unused); a model with COCO's 80 classes loads only the outputs of these classes.
"""

_base_ = ["./retinanet_r50_fpn_1x_coco.py"]

model = dict(
    # No ImageNet weights, since the detector's weights include the backbone.
    backbone=dict(norm=dict(eps=0.0), pretrained=None),
    neck=dict(extra="p5"),
    head=dict(
        anchors=dict(
            sizes=[[32, 40, 50], [64, 80, 101], [128, 161, 203], [256, 322, 406], [512, 645, 812]],
            rounded=True,
            stride_from_grid=True,
        ),
        smooth_l1_beta=0.0,
        detections_per_image=300,
    ),
    size_divisor=32,
)
_resize = dict(type="ResizeShortestEdge", size=800, max_size=1333, rounding="torchvision")
train_data = dict(pipeline=[_resize, dict(type="RandomHorizontalFlip", p=0.5)])
val_data = dict(pipeline=[_resize])
