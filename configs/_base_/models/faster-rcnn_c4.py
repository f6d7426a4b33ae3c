"""Faster R-CNN on c4: He et al. 2016, appendix A, with the settings of Detectron2's Base-RCNN-C4.yaml."""

_base_ = ["faster-rcnn_fpn.py"]

model = dict(
    backbone=dict(out=["c4", "c5"]),
    trunk="c5",  # stage c5 runs on the pooled RoIs, as in Detectron2's Res5ROIHeads
    neck=None,
    rpn=dict(
        anchors=dict(sizes=[[32, 64, 128, 256, 512]]),  # from ANCHOR_GENERATOR.SIZES
        pre_nms_topk=(12000, 6000),
        post_nms_topk=(2000, 1000),
    ),
    box=dict(_delete_=True, type="BoxHead", resolution=14),  # from ROI_BOX_HEAD.POOLER_RESOLUTION; c5 halves it
)
