"""Faster R-CNN on a dilated c5, with the settings of Detectron2's Base-RCNN-DilatedC5.yaml."""

_base_ = ["faster-rcnn_fpn.py"]

model = dict(
    backbone=dict(out=["c5"], output_stride=16, dilations=[1, 1, 1, 2]),  # RES5_DILATION, in every block of c5
    neck=None,
    rpn=dict(
        anchors=dict(sizes=[[32, 64, 128, 256, 512]]),  # from ANCHOR_GENERATOR.SIZES
        pre_nms_topk=(12000, 6000),
        post_nms_topk=(2000, 1000),
    ),
)
