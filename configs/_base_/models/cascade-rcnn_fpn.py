"""Cascade R-CNN with FPN: Cai & Vasconcelos 2018, in the settings of Detectron2's Cascade Mask R-CNN."""

_base_ = ["faster-rcnn_fpn.py"]

model = dict(
    rpn=dict(post_nms_topk=(2000, 1000)),  # RPN.POST_NMS_TOPK_TRAIN
    box=dict(
        _delete_=True,
        type="CascadeHead",
        iou_thresholds=(0.5, 0.6, 0.7),  # ROI_BOX_CASCADE_HEAD.IOUS
        box_weights=((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
        stage=dict(
            resolution=7,
            sampling_ratio=0,
            trunk=dict(type="ConvFC", fcs=2, fc_channels=1024),
            batch_size_per_image=512,
            positive_fraction=0.25,
            smooth_l1_beta=0.0,
            score_threshold=0.05,
            nms_threshold=0.5,
            detections_per_image=100,
        ),
    ),
)
